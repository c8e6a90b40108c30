"""The state machine: all rules, and calls that must fail without changing anything."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.fix_engine import value
from tests.model.base import seldom
from tests.model.consuming import limits, workers
from tests.model.parts import Entry, Event
from tests.model.producing import READ_COMMITTED, producers
from tests.model.sharing import GROUP
from tests.model.upsetting import Upsetting
from tests.model.world import PRODUCERS, World

NOBODY = "nobody"
NO_QUEUE = "no queue"
NO_BATCH = 2**62
MESSAGE = "row(1, null, null, null, null, null, null, null, null, null)::pgque.message"

# Calls that must fail in every state, each with its SQLSTATE.
REFUSED = [
    ("PQ001", "pgque.send('{no_queue}', 'x'::text)"),
    ("PQ001", "pgque.send_batch('{no_queue}', array['x']::text[])"),
    ("PQ001", "pgque.insert_event(null, 'x', 'y')"),
    ("22023", "pgque.send_batch('{queue}', null::text[])"),
    ("PQ001", "pgque.receive('{no_queue}', 'c')"),
    ("PQ002", "pgque.receive('{queue}', 'nobody')"),
    ("PQ002", "pgque.receive('{queue}', null)"),
    ("22023", "pgque.receive('{queue}', 'c', 0)"),
    ("22023", "pgque.receive_merged('{queue}', 'c', null)"),
    ("PQ002", "pgque.next_batch('{queue}', 'nobody')"),
    ("PQ003", "pgque.nack({no_batch}, {message})"),
    ("PQ003", "pgque.nack(null, {message})"),
    ("PQ003", "pgque.nack_many({no_batch}, array[1]::bigint[])"),
    ("PQ003", "pgque.ack_or_fail({no_batch})"),
    ("PQ003", "pgque.ack_part({no_batch}, array[1]::bigint[])"),
    ("PQ003", "pgque.get_batch_events({no_batch})"),
    ("PQ003", "pgque.get_batch_info({no_batch})"),
    ("PQ003", "pgque.event_retry({no_batch}, 1, 0)"),
    ("PQ003", "pgque.batch_retry({no_batch}, 0)"),
    ("PQ001", "pgque.subscribe('{no_queue}', 'c')"),
    ("22023", "pgque.subscribe('{queue}', '')"),
    ("PQ011", "pgque.register_consumer_at('{queue}', 'nobody', {no_batch})"),
    ("PQ011", "pgque.register_consumer_at('{queue}', 'nobody', null)"),
    ("PQ001", "pgque.unsubscribe('{no_queue}', 'c')"),
    ("PQ002", "pgque.seek('{queue}', 'nobody', 1)"),
    ("22023", "pgque.receive_coop('{queue}', 'g.a', 'b')"),
    ("22023", "pgque.receive_coop('{queue}', 'g', 'a', 0)"),
    ("22023", "pgque.receive_coop('{queue}', 'g', 'a', 1, '-1 hour')"),
    ("PQ001", "pgque.receive_coop('{no_queue}', 'g', 'a')"),
    ("22023", "pgque.register_subconsumer('{queue}', 'g', '')"),
    ("22023", "pgque.unregister_subconsumer('{queue}', 'g', 'a', 2)"),
    ("PQ001", "pgque.ticker('{no_queue}')"),
    ("PQ001", "pgque.force_next_tick('{no_queue}')"),
    ("22023", "pgque.set_queue_config('{queue}', 'nothing', '1')"),
    ("22023", "pgque.set_queue_config('{queue}', 'max_retries', '-1')"),
    ("22023", "pgque.set_queue_config('{queue}', 'ticker_max_lag', 'soon')"),
    ("PQ001", "pgque.drop_queue('{no_queue}')"),
    ("22023", "pgque.create_queue('')"),
    ("PQ005", "pgque.dlq_replay({no_batch})"),
    ("22023", "pgque.dlq_purge('{queue}', null)"),
]


class Machine(Upsetting):
    def __init__(self) -> None:
        super().__init__()
        self.configure("max_retries", "1")
        for name in ("c", "d"):
            self.subscribe(name, False)
        for member in ("a", "b"):
            self.register_member(member, False)

    # Frequent steps

    @rule(number=producers)
    def send_alone(self, number: int) -> None:
        """Send in autocommit, if a producer has no open transaction."""
        free = [n for n in range(PRODUCERS) if n not in self.open]
        free = free or list(range(PRODUCERS))
        self.send_one(free[number % len(free)], "text")

    @rule(number=producers, form=st.sampled_from(["text", "extras"]))
    def send_inside(self, number: int, form: str) -> None:
        if not self.open:
            return
        self.send_one(self.one_open(number), form)

    @rule(number=workers, name=st.sampled_from(["c", "d"]), limit=limits)
    def tick_and_consume(self, number: int, name: str, limit: int) -> None:
        self.tick_once_more()
        self.consume(number, name, limit, False, None, "one" if limit == 1 else "none")

    @rule(number=workers, member=st.sampled_from(["a", "b"]), limit=limits)
    def tick_and_share(self, number: int, member: str, limit: int) -> None:
        self.tick_once_more()
        self.share_and_ack(number, member, limit, "0" if limit == 2 else None, None, "none")

    @rule()
    def every_consumer_catches_up(self) -> None:
        """Drain all consumers. Only then can a rotation truncate a table."""
        for _ in list(self.works):
            self.commit_work(0)
        self.tick_once_more()
        for reader in self.model.readers.values():
            while self.take_next(reader):
                pass

    @rule()
    def put_back_once_more(self) -> None:
        if not self.model.due():
            return
        self.put_back()

    @rule(number=producers)
    def put_back_inside_once_more(self, number: int) -> None:
        if not self.open or not self.model.due():
            return
        self.put_back_inside(number)

    @rule(number=producers, at_once=st.booleans())
    def retries_that_commit_late(self, number: int, at_once: bool) -> None:
        """Commit retries after every consumer has passed the tick that could not see them."""
        if number in self.open or not self.model.due():
            return
        self.begin(number, READ_COMMITTED, "nothing")
        self.put_back_inside(number)
        self.send_alone(number + 1)
        self.every_consumer_catches_up()
        if at_once:
            self.commit(sorted(self.open).index(number))
            self.rotate(3)

    @rule(number=workers, other=workers, name=st.sampled_from(["c", "d"]), limit=limits)
    def overtaken(self, number: int, other: int, name: str, limit: int) -> None:
        """Receive with an old snapshot a batch that another transaction has acked since."""
        if number == other or number in self.works or other in self.works:
            return
        self.received(other, name, limit, False)
        self.begin_work(number, "repeatable read", True)
        self.consume(other, name, limit, False, None, "none")
        self.received(number, name, limit, False)

    @rule(number=producers, then=st.sampled_from(["nothing", "tick", "rotate"]))
    def commit_late(self, number: int, then: str) -> None:
        """Commit an event after a tick that counted but could not see it; send nothing else."""
        if number in self.open:
            return
        self.begin(number, READ_COMMITTED, "send")
        self.tick_once_more()
        if then == "rotate":
            self.every_consumer_catches_up()
        if then != "nothing" and number in self.open:
            self.commit(sorted(self.open).index(number))
            self.rotate(3) if then == "rotate" else self.tick_once_more()

    @rule(number=workers, name=st.sampled_from(["c", "d"]), windows=st.integers(2, 3))
    def fall_behind(self, number: int, name: str, windows: int) -> None:
        """Hold a batch while more windows are ready after it."""
        for _ in range(windows):
            self.send_alone(number)
            self.tick_once_more()
        self.received(number, name, 1, False)

    @rule(
        number=workers,
        member=st.sampled_from(["a", "b"]),
        limit=limits,
        handling=st.sampled_from([0, 0, 1]),
    )
    def leave(self, number: int, member: str, limit: int, handling: int) -> None:
        """Unregister a member that holds a batch."""
        self.send_alone(number)
        self.tick_once_more()
        self.shared(number, member, limit, None, False)
        self.unregister_member(member, handling)

    @rule()
    def rotate_once_more(self) -> None:
        self.rotate(3)

    @rule()
    def rotate_ledger_once_more(self) -> None:
        self.rotate_ledger(2)

    # Refused calls

    @seldom("manage", number=st.integers(0, len(REFUSED) - 1))
    def refuse(self, number: int) -> None:
        """A failed call names its error and changes nothing (P10)."""
        expected, call = REFUSED[number]
        names = {"queue": self.queue, "no_queue": NO_QUEUE, "no_batch": NO_BATCH}
        query = f"select {call.format(message=MESSAGE, **names)}"
        before = self.world.everything(self.queue)
        state, _ = self.world.attempt(lambda conn: value(conn, query), self.control)
        assert state == expected, self.world.refusal
        assert self.world.everything(self.queue) == before

    @seldom(
        "manage",
        when=lambda self: any(r.members for r in self.model.readers.values()),
        call=st.sampled_from(
            [
                "receive('{queue}', '{name}')",
                "next_batch('{queue}', '{name}')",
                "unsubscribe('{queue}', '{name}')",
                "drop_queue('{queue}')",
            ]
        ),
        as_member=st.booleans(),
    )
    def refuse_cooperative_names(self, call: str, as_member: bool) -> None:
        group = self.group()
        assert group
        name = f"{GROUP}.{next(iter(group.members))}" if as_member else GROUP
        query = f"select pgque.{call.format(queue=self.queue, name=name)}"
        before = self.world.everything(self.queue)
        state, _ = self.alone(query)
        assert state in ("PQ009" if "drop" in call else "PQ007", "gave up"), self.world.refusal
        assert self.world.everything(self.queue) == before

    # Dead letters

    @seldom("vary", when=lambda self: self.model.dead and not self.works)
    def replay(self) -> None:
        """Replay a dead letter as a new event for all consumers."""
        if self.is_on("disable_insert"):
            return
        row = self.control.execute(
            "select dl_id, co_name, ev_id, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, "
            "ev_extra4 from pgque.dlq_inspect(%s) join pgque.consumer on co_id = dl_consumer_id "
            "order by dl_id limit 1",
            [self.queue],
        ).fetchone()
        assert row is not None
        letter, name, event_id, *content = row
        del self.model.dead[name, event_id]
        new_id = self.ask("select pgque.dlq_replay(%s)", letter)
        event = Event(new_id, content[0], content[1], tuple(content[2:]))
        number = next(self.numbers)
        self.model.commit([Entry(event, number)], number)

    @seldom("vary", when=lambda self: self.model.dead and not self.works)
    def purge(self) -> None:
        purged = self.ask("select pgque.dlq_purge(%s, '0')", self.queue)
        assert purged == len(self.model.dead)
        self.model.dead.clear()


def run(
    world: World, examples: int, steps: int, *, seed: int | None = None, **options: Any
) -> None:
    """Run the machine on a database. Raise the first failure."""
    machine = type("Machine", (Machine,), {"world": world})
    if seed is not None:
        machine = hypothesis.seed(seed)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


NO_SHRINKING = (Phase.explicit, Phase.generate)
