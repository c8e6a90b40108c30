"""Tickers and maintenance: on several connections, and inside transactions that stay open."""

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.fix_engine import Connection, tick, value
from tests.model.base import seldom
from tests.model.parts import PutBack, Tick, Transaction
from tests.model.producing import READ_COMMITTED, Producing, producers
from tests.model.world import LOCK_NOT_AVAILABLE, PRODUCERS

forms = st.sampled_from(["one", "all"])

SETTINGS = [
    ("max_retries", "0"),
    ("max_retries", "1"),
    ("max_retries", "2"),
    ("max_retries", None),
    ("ticker_max_count", "1"),
    ("ticker_max_count", "4"),
    ("ticker_max_lag", "1 hour"),
    ("ticker_max_lag", None),
    ("ticker_idle_period", "1 microsecond"),
    ("ticker_idle_period", None),
    ("ticker_paused", "true"),
    ("ticker_paused", "false"),
    ("ticker_paused", "false"),
    ("disable_insert", "true"),
    ("disable_insert", "false"),
    ("disable_insert", "false"),
    ("external_ticker", "true"),
    ("external_ticker", "false"),
    ("external_ticker", "false"),
]


class Ticking(Producing):
    def lock_may_be_held(self, but: Transaction | None = None) -> bool:
        """Return whether a transaction may hold the ticker's lock."""
        others = [*self.open.values(), *(t for _, t in self.prepared)]
        return bool(self.world.blocked) or any(t.may_hold_tick_lock for t in others if t is not but)

    def refuses_ticks(self) -> bool:
        return self.is_on("ticker_paused") or self.is_on("external_ticker")

    def call_ticker(self, conn: Connection, form: str) -> int | None:
        if form == "one":
            return tick(conn, self.queue)
        if value(conn, "select pgque.ticker()") == 0:
            return None
        return self.last_tick(conn)

    @rule(number=st.integers(-2, PRODUCERS - 1), form=forms)
    def tick(self, number: int, form: str) -> None:
        if number in self.open:
            return
        self.tick_on([*self.world.producers, self.control, self.world.second][number], form)

    @rule()
    def tick_once_more(self) -> None:
        self.tick_on(self.control, "one")

    def tick_on(self, conn: Connection, form: str) -> None:
        state, tick_id = self.world.attempt(lambda conn: self.call_ticker(conn, form), conn)
        last = self.model.ticks[-1]
        if form == "one" and self.refuses_ticks():
            assert state == "PQ010"
            self.set_back("ticker_paused", "external_ticker")
        elif state == LOCK_NOT_AVAILABLE:
            assert self.lock_may_be_held()
        else:
            assert state is None, self.world.refusal
            if tick_id is not None:
                assert not self.refuses_ticks()
                assert tick_id == last.id + 1
                self.model.ticked(Tick(tick_id, self.model.now))
            elif not self.lock_may_be_held():
                self.must_not_be_due(last)
                self.set_back("ticker_max_lag", "ticker_paused", "external_ticker")

    @rule(number=producers, form=forms)
    def tick_inside(self, number: int, form: str) -> None:
        """Tick in a producer's transaction. It commits with it and does not see its events."""
        if not self.open:
            return
        number = self.one_open(number)
        conn = self.producer(number)
        own = self.open[number]
        isolated = own.isolation != READ_COMMITTED
        guarded = isolated or self.refuses_ticks() or self.lock_may_be_held(own)
        if guarded:
            conn.execute("savepoint guard")
        state, tick_id = self.world.attempt(lambda conn: self.call_ticker(conn, form), conn)
        if state:
            assert guarded, self.world.refusal
            conn.execute("rollback to guard")
            if isolated:
                assert state == "PQ013"
            elif state == LOCK_NOT_AVAILABLE:
                assert self.lock_may_be_held(own)
            else:
                assert state == "PQ010"
                assert form == "one"
                assert self.refuses_ticks()
            return
        assert not isolated
        if guarded:
            conn.execute("release guard")
        own.may_hold_tick_lock = True
        ticks = [item for item in own.items if isinstance(item, Tick)]
        last = ticks[-1] if ticks else self.model.ticks[-1]
        if tick_id is not None:
            assert tick_id == last.id + 1
            own.items.append(Tick(tick_id, self.model.now))
            own.has_notified = True
        elif not self.lock_may_be_held(own):
            self.must_not_be_due(last)

    @rule(number=producers)
    def ticker_waits(self, number: int) -> None:
        """A ticker that waits for a lock sees everything committed when it gets the lock."""
        if not self.open or self.world.blocked:
            return
        if not self.lock_may_be_held():
            self.tick_inside(number, "one")
        if self.lock_may_be_held() and not self.refuses_ticks():
            self.world.wait_with(lambda conn: tick(conn, self.queue))

    @seldom("maintain", older_name=st.booleans())
    def force(self, older_name: bool) -> None:
        name = "force_tick" if older_name else "force_next_tick"
        state, newest = self.world.attempt(
            lambda conn: value(conn, f"select pgque.{name}(%s)", self.queue), self.control
        )
        if self.refuses_ticks():
            assert state == "PQ010"
        elif state is None:
            assert newest == self.model.ticks[-1].id
            self.forced_after = newest
        else:
            self.waited_for_a_seek(state)

    def waited_for_a_seek(self, state: str | None) -> None:
        """Check that the call timed out on a seek, which locks the history until its commit."""
        assert state == LOCK_NOT_AVAILABLE, self.world.refusal
        assert self.works, self.world.refusal

    @seldom("maintain", skips=st.sampled_from([0, 1, 5]), forward=st.booleans())
    def tick_from_outside(self, skips: int, forward: bool) -> None:
        if self.lock_may_be_held():
            return
        last = self.model.ticks[-1]
        tick_id = last.id + 1 + skips if forward else last.id
        state, _ = self.world.attempt(
            lambda conn: value(
                conn,
                "select pgque.ticker(%s, %s, clock_timestamp(), %s)",
                self.queue,
                tick_id,
                next(self.external_ticks) * 10**6,
            ),
            self.control,
        )
        if not self.is_on("external_ticker") or self.is_on("ticker_paused"):
            assert state == "PQ010"
        elif not forward:
            assert state == "22023"
        else:
            assert state is None, self.world.refusal
            self.model.ticked(Tick(tick_id, self.model.now))

    @seldom("maintain", setting=st.sampled_from(SETTINGS))
    def change_setting(self, setting: tuple[str, str | None]) -> None:
        if self.world.blocked:
            return  # the waiting ticker would read the new setting
        state, _ = self.world.attempt(lambda _: self.configure(*setting), self.control)
        if state:
            self.waited_for_a_seek(state)

    # Retries

    @seldom("maintain", when=lambda self: self.model.due())
    def put_back(self) -> None:
        due = self.model.due()
        assert self.ask("select pgque.maint_retry_events()") == len(due)
        self.model.commit(due, next(self.numbers))

    @seldom("maintain", when=lambda self: self.open, number=producers)
    def put_back_inside(self, number: int) -> None:
        """Put retries back in a transaction that stays open, so they also commit late."""
        number = self.one_open(number)
        own = self.open[number]
        conn = self.producer(number)
        conn.execute("savepoint guard")
        state, count = self.world.attempt(
            lambda conn: value(conn, "select pgque.maint_retry_events()"), conn
        )
        if own.isolation != READ_COMMITTED:
            assert state == "PQ013"
            conn.execute("rollback to guard")
            return
        due = self.model.due()
        assert (state, count) == (None, len(due))
        conn.execute("release guard")
        self.hold(own, due)

    def hold(self, own: Transaction, due: list[PutBack]) -> None:
        for item in due:
            item.waiting.held = own
        own.items += due

    # Rotation and maintenance

    @seldom("maintain", times=st.integers(1, 4))
    def rotate(self, times: int) -> None:
        for _ in range(times):
            step1 = "select pgque.maint_rotate_tables_step1(%s)"
            if self.ask(step1, self.queue) == 0:
                break
            self.kept_all_history = False
            assert self.ask("select pgque.maint_rotate_tables_step2()") == 0

    @seldom("maintain")
    def rotate_and_roll_back(self) -> None:
        self.control.execute("begin")
        self.ask("select pgque.maint_rotate_tables_step1(%s)", self.queue)
        self.control.execute("rollback")

    @seldom("maintain", times=st.integers(1, 2))
    def rotate_ledger(self, times: int) -> None:
        for _ in range(times):
            self.control.execute("select setval('pgque.ledger_kept_bytes', 0)")
            assert self.ask("select pgque.maint_rotate_ledger()") in (0, 1)
            self.thin_ticks()

    @seldom("maintain")
    def maint(self) -> None:
        due = self.model.due()
        assert self.ask("select pgque.maint()") >= len(due)
        self.thin_ticks()
        self.model.commit(due, next(self.numbers))

    def thin_ticks(self) -> None:
        self.kept_all_history = False
        rows = self.control.execute(
            "select tick_id, "
            "bool_or(t.tableoid = ('pgque.tick_' || pgque._ledger_child())::regclass) "
            "from pgque.tick t join pgque.queue on queue_id = tick_queue "
            "where queue_name = %s group by tick_id",
            [self.queue],
        ).fetchall()
        self.model.thin({tick_id for tick_id, _ in rows}, {n for n, current in rows if current})
