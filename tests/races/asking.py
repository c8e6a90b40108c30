"""Two transactions, one of which may block the other. Queries are sent without waiting."""

import select
import time
from dataclasses import dataclass

from psycopg.pq import DiagnosticField, ExecStatus, PGconn, PGresult, TransactionStatus

from tests.fix_engine import Connection, value
from tests.running import PATIENCE


@dataclass(frozen=True)
class Answer:
    """The result of a statement: its rows as text, or its error."""

    rows: list[list[str | None]]
    sqlstate: str = ""
    message: str = ""

    def __str__(self) -> str:
        return f"{self.sqlstate}: {self.message}" if self.sqlstate else f"{self.rows}"


class Asked:
    """A connection that runs one statement at a time without blocking this process."""

    def __init__(self, conn: Connection, observer: Connection) -> None:
        self.conn = conn
        self.pg: PGconn = conn.pgconn
        self.pid = conn.info.backend_pid
        self.observer = observer

    def run(self, statement: str) -> Answer:
        """Run a statement that no other session blocks."""
        self.ask(statement)
        return self.answer()

    def ask(self, statement: str) -> None:
        self.pg.send_query(statement.encode())

    def waits_for(self) -> list[int]:
        """Return the blocking processes: the other session, or briefly autovacuum."""
        return value(self.observer, "select pg_blocking_pids(%s)", self.pid)

    def is_done(self, within: float = 0.0) -> bool:
        """Return whether the answer arrives within this many seconds."""
        if self.pg.is_busy() and select.select([self.pg.socket], [], [], within)[0]:
            self.pg.consume_input()
        return not self.pg.is_busy()

    def finishes(self, beside: "Asked") -> bool:
        """Wait for the answer or until `beside` blocks it. Return whether it has arrived."""
        end = time.monotonic() + PATIENCE
        pause = 0.004
        while not self.is_done(pause):
            if beside.pid in self.waits_for():
                return self.is_done()
            assert time.monotonic() < end, f"waits for {self.waits_for()}"
            pause = 0.001
        return True

    def answer(self) -> Answer:
        """Wait for the answer of a statement that is no longer blocked."""
        end = time.monotonic() + PATIENCE
        while not self.is_done(0.01):
            assert time.monotonic() < end, f"still waits for {self.waits_for()}"
        answers = []
        while result := self.pg.get_result():
            answers.append(_answer(result))
        return answers[-1]

    def answer_if_any(self) -> None:
        """Wait for the answer if a statement is still running."""
        if self.pg.transaction_status == TransactionStatus.ACTIVE:
            self.answer()


def _answer(result: PGresult) -> Answer:
    if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        columns = range(result.nfields)
        return Answer(
            [
                [
                    (v.decode() if (v := result.get_value(n, c)) is not None else None)
                    for c in columns
                ]
                for n in range(result.ntuples)
            ]
        )
    field = result.error_field
    return Answer(
        [],
        (field(DiagnosticField.SQLSTATE) or b"?????").decode(),
        (field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(),
    )
