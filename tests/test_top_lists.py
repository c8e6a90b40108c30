"""Lists of `pgque top` that a thread loads while other things happen."""

from pgque.top.app import TopApp
from tests.fix_top import (
    NOW,
    HeldSource,
    letter,
    play,
    press,
    queue_now,
    sample,
    seen,
    settled,
    shown,
    text_of,
    until,
)


def at(seconds):
    return sample([queue_now("orders")], at=float(seconds))


def letters(*reasons):
    return [letter(n, 9, "c", 1, x, None, None, "{}") for n, x in enumerate(reasons)]


def test_a_list_requested_before_a_change_is_requested_again():
    source = HeldSource(at(0), letters=letters("the first", "the second"))

    def change(_):
        source.lists["letters"] = letters("the first")

    async def steps():
        async with shown(source, queue="orders") as pilot:
            await press(pilot, "4")
            await seen(pilot, "the second")
            before = source.asked
            source.let.clear()
            pilot.app.look()
            await until(pilot, lambda: source.asked > before, "the request")
            pilot.app.change("change", "nothing", change, lambda _: "It was changed.")
            await seen(pilot, "It was changed.")
            await seen(pilot, "the second")
            source.let.set()
            await until(pilot, lambda: "the second" not in text_of(pilot), "the current list")
            assert "the first" in text_of(pilot)

    play(steps())


def test_a_sample_that_arrives_during_shutdown_is_ignored():
    async def steps():
        async with shown(HeldSource(at(0))) as pilot:
            # Textual empties the screens one after the other when it shuts down.
            pilot.app._running = False
            await pilot.app.screen.query("#head").remove()
            pilot.app.on_top_app_sampled(TopApp.Sampled(at(1)))

    play(steps())


def test_samples_that_arrive_while_a_list_loads_request_no_further_lists():
    source = HeldSource(*(at(n) for n in range(5)))

    async def steps():
        async with shown(source, queue="orders") as pilot:
            await press(pilot, "4")
            await seen(pilot, "No dead letters.")
            before = source.asked
            source.let.clear()
            for n in range(1, 5):
                pilot.app.look()
                await until(pilot, lambda: pilot.app.now == NOW.timestamp() + n, "the sample")
            source.let.set()
            await settled(pilot)
            assert source.asked == before + 1

    play(steps())
