"""Lists of `pgque top`, which come from a thread while other things happen."""

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


def test_a_list_that_was_asked_for_before_a_change_is_asked_for_again():
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
            await until(pilot, lambda: source.asked > before, "the question")
            pilot.app.change("change", "nothing", change, lambda _: "It was changed.")
            await seen(pilot, "It was changed.")
            await seen(pilot, "the second")
            source.let.set()
            await until(pilot, lambda: "the second" not in text_of(pilot), "the list as it is now")
            assert "the first" in text_of(pilot)

    play(steps())


def test_a_sample_that_comes_while_it_ends_is_passed_over():
    async def steps():
        async with shown(HeldSource(at(0))) as pilot:
            # As textual does at the end: the screens are emptied one after the other.
            pilot.app._running = False
            await pilot.app.screen.query("#head").remove()
            pilot.app.on_top_app_sampled(TopApp.Sampled(at(1)))

    play(steps())


def test_samples_that_come_while_a_list_is_asked_for_do_not_ask_for_more():
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
