"""Actions of operators that disturb the engine: clocks, sequences, row security, isolation."""

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.fix_engine import Connection, Message, column, receive, tick, value
from tests.model.base import seldom
from tests.model.consuming import limits, workers
from tests.model.parts import Entry, Event, Tick
from tests.model.sharing import Sharing
from tests.model.ticking import Ticking
from tests.model.world import LOCK_NOT_AVAILABLE

READER = "pgque_reader"
"""A role that reads but owns nothing, so row security applies to it."""

CLOCKS = ("-10 minutes", "0", "10 minutes")
"""Offsets of the server's clock, at most an hour apart: the longest dead interval here."""

SEQUENCES = "select oid::regclass::text from pg_class where relkind = 'S' and relnamespace = %s"
SETTINGS = ("pgque.ledger_child", "pgque.ledger_kept_bytes", "pgque.wake_flag")
"""Sequences that store a setting instead of numbering rows."""


class Upsetting(Ticking, Sharing):
    def __init__(self) -> None:
        super().__init__()
        self.clock = "0"

    @rule(data=st.data())
    def upset(self, data: st.DataObject) -> None:
        self.choose("upset", data)

    def all_is_committed(self) -> bool:
        return not (self.open or self.prepared or self.works or self.world.blocked)

    # Clocks

    @seldom("upset", to=st.sampled_from(CLOCKS))
    def set_clock(self, to: str) -> None:
        """Shift the stored times, because the clock itself cannot be set."""
        if self.world.blocked:
            return
        state, _ = self.world.attempt(lambda conn: self.shift(conn, to), self.control)
        if state is None:
            self.world.upsets["clock"] += to != self.clock
            self.clock = to
        else:
            assert state == LOCK_NOT_AVAILABLE, self.world.refusal

    def shift(self, conn: Connection, to: str) -> None:
        for table, column_, rows in (
            ("tick", "tick_time", "tick_queue = (select queue_id from of_queue)"),
            ("cursor", "cur_time", "cur_sub in (select sub_id from of_queue)"),
        ):
            conn.execute(
                f"""
                with of_queue as (
                    select queue_id, sub_id
                    from pgque.queue left join pgque.subscriber on sub_queue = queue_id
                    where queue_name = %s
                )
                update pgque.{table} set {column_} = {column_} - (%s::interval - %s::interval)
                where {rows.replace("(select queue_id", "(select distinct queue_id")}
                """.encode(),
                [self.queue, to, self.clock],
            )

    @rule(number=workers, to=st.sampled_from(CLOCKS[:2]))
    def set_clock_and_go_on(self, number: int, to: str) -> None:
        """Send after the clock was set back: the event must be ticked and received."""
        if to == self.clock or not self.all_is_committed():
            return
        self.set_clock(to)
        self.send_alone_with(number)
        self.tick_on(self.control, "one")
        self.consume(number, "c", 5, False, None, "none")

    def send_alone_with(self, number: int) -> None:
        """Send as a producer without an open transaction."""
        self.send_one(number, "text")

    # Sequences

    @seldom(
        "upset",
        when=lambda self: self.all_is_committed(),
        count=st.sampled_from([0, 0, 1, 3]),
    )
    def lose_sequences(self, count: int) -> None:
        """Restart the sequences, as after a restore without them; send events before the tick."""
        if self.is_on("disable_insert") or self.refuses_ticks():
            return
        for name in column(self.control, SEQUENCES, self.namespace()):
            if name not in SETTINGS:
                self.control.execute(f"alter sequence {name} restart".encode())
        self.world.upsets["sequences"] += 1
        sent = [self.make(1, "default", "text")[0] for _ in range(count)]
        for event in sent:
            call = "select pgque.send(%s, %s::text)"
            state, _ = self.world.attempt(
                lambda conn, e=event: value(conn, call, self.queue, e.payload), self.control
            )
            assert state is None, self.world.refusal
        self.notice_sequences(sent)

    def namespace(self) -> int:
        return int(self.ask("select 'pgque'::regnamespace::oid::bigint"))

    def notice_sequences(self, sent: list[Event]) -> None:
        """Check that maintenance and the next tick keep every id unique."""
        tick_id = tick(self.control, self.queue)
        log = self.ask("select queue_data_pfx from pgque.queue where queue_name = %s", self.queue)
        used = {entry.event.id for entry in self.model.log}
        for event in sent:
            event.id = self.ask(f"select ev_id from {log} where ev_data = %s", event.payload)
            assert event.id not in used, f"event id {event.id} was used before"
            used.add(event.id)
            number = next(self.numbers)
            self.model.commit([Entry(event, number)], number)
        if tick_id is None:
            self.must_not_be_due(self.model.ticks[-1])
        else:
            self.model.ticked(Tick(tick_id, self.model.now))
        self.maint()

    # Restores

    @seldom(
        "upset",
        when=lambda self: self.all_is_committed() and self.all_is_given(),
        call=st.sampled_from(["ticker()", "ticker(%s)", "maint_retry_events()", "maint()"]),
    )
    def restore(self, call: str) -> None:
        """Change the database's identity, as a restore does: the first call must notice it.

        Two ticks close the log's old life and begin the new one. Transaction ids stay unchanged,
        because one cluster cannot use another's: see the restored dumps of bench/chaos.
        """
        if self.is_on("disable_insert") or self.refuses_ticks():
            return
        self.world.upsets["restore"] += 1
        self.control.execute("alter table pgque.tick cluster on tick_pkey")
        self.control.execute("alter table pgque.tick set without cluster")
        self.control.execute(
            "update pgque.config set cluster_id = coalesce(cluster_id, 0) + 1, checked_in = null"
        )
        due = self.model.due() if "maint" in call else []
        last = self.model.ticks[-1].id
        done = self.ask(f"select pgque.{call}", *([self.queue] if "%s" in call else []))
        newer = (
            "select distinct tick_id from pgque.tick join pgque.queue on queue_id = tick_queue "
            "where queue_name = %s and tick_id > %s order by 1"
        )
        ticks = column(self.control, newer, self.queue, last)
        assert len(ticks) >= 2, f"{call} did not notice the restore"
        for tick_id in ticks:
            self.model.ticked(Tick(tick_id, self.model.now))
        if "maint" in call:
            assert done >= len(due)
            self.model.commit(due, next(self.numbers))
            self.thin_ticks()
        self.kept_all_history = False
        if self.ask("select to_regclass('pgque.restore_report') is not null"):
            lost = self.ask("select count(*) from pgque.restore_report")
            assert lost == 0, "the restore report claims lost events"

    def all_is_given(self) -> bool:
        """Return whether no redelivery is pending in the log: a restore would repeat it."""
        return all(
            holder.left is None and holder.batch is None
            for reader in self.model.readers.values()
            for holder in [reader, *reader.members.values()]
        ) and not any(
            entry.owner is not None and entry.commit > entry.owner.at.sees
            for entry in self.model.log
        )

    # Row security

    @seldom(
        "upset",
        when=lambda self: self.all_is_committed(),
        number=workers,
        limit=limits,
    )
    def filter_rows(self, number: int, limit: int) -> None:
        """Receive while row security hides rows: an error is needed, or they would be skipped."""
        log = self.ask("select queue_data_pfx from pgque.queue where queue_name = %s", self.queue)
        reader = self.model.readers.get("c")
        if reader is None or reader.members:
            return
        tables = [log, *(f"{log}_{n}" for n in range(3))]
        conn = self.world.workers[number]

        def call(conn: Connection) -> tuple[list[Message], tuple[int, int] | None]:
            rows = receive(conn, self.queue, "c", limit)
            return rows, self.span(conn, rows)

        for table in tables:
            self.control.execute(f"alter table {table} enable row level security".encode())
        try:
            conn.execute(f"set role {READER}".encode())
            state, result = self.world.attempt(call, conn)
        finally:
            conn.execute("reset role")
            for table in tables:
                self.control.execute(f"alter table {table} disable row level security".encode())
        self.world.upsets["row security"] += 1
        if state is None:
            self.check_received(reader, result[0], result[1], limit, False)

    # Isolation

    @rule(
        number=workers,
        other=workers,
        times=st.integers(1, 3),
        isolation=st.sampled_from(["repeatable read", "serializable"]),
        before=st.booleans(),
    )
    def rotate_around_an_isolated_consumer(
        self, number: int, other: int, times: int, isolation: str, before: bool
    ) -> None:
        """Rotate the ledger around an isolated consumer, which may write to either child."""
        if number == other or number in self.works or other in self.works:
            return
        self.world.upsets["isolated"] += 1
        self.begin_work(number, isolation, before)
        self.rotate_ledger(times)
        self.consume(number, "d", 1, False, None, "none")
        if number not in self.works:
            return
        self.rotate_ledger(times)
        self.commit_work(sorted(self.works).index(number))
        self.rotate_ledger(times)
        self.consume(other, "d", 2, False, None, "none")
