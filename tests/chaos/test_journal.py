"""The outcome that a producer records for a transaction: sent, failed or unknown."""

import os
import signal
from pathlib import Path

import psycopg
import pytest

from bench.chaos.history import Attempt
from bench.chaos.journal import (
    TRANSACTIONS,
    Doubt,
    Journal,
    read_attempts,
    read_transactions,
)
from bench.chaos.rates import Recovery, recoveries, too_late
from pgque import PgqueConnectionError, PgqueReadOnly
from tests.chaos.test_history import GOOD
from tests.running import eventually, process


def outcome(folder: Path) -> str:
    [transaction] = read_transactions(folder)
    return transaction.outcome


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, "p.1", TRANSACTIONS)


def test_a_committed_transaction_is_sent(journal, tmp_path):
    with Doubt(journal, "t", ["a", "b"], ["c"], ["b"]) as doubt:
        doubt.committing()
    [transaction] = read_transactions(tmp_path)
    assert transaction.outcome == "sent"
    assert (transaction.keys, transaction.undone, transaction.poison) == (["a", "b"], ["c"], ["b"])


def test_a_rolled_back_transaction_is_failed(journal, tmp_path):
    with Doubt(journal, "t", ["a"]) as doubt:
        doubt.rolled_back()
    assert outcome(tmp_path) == "failed"


@pytest.mark.parametrize(
    "error",
    [
        PgqueConnectionError("gone"),
        psycopg.OperationalError("gone"),
        psycopg.errors.AdminShutdown(),
    ],
)
def test_a_lost_connection_leaves_an_unknown_outcome_only_in_the_commit(journal, tmp_path, error):
    with Doubt(journal, "t", ["a"]) as doubt:
        raise error
    assert outcome(tmp_path) == "failed"
    assert doubt.error is error
    with Doubt(journal, "t", ["a"]) as doubt:
        doubt.committing()
        raise error
    assert outcome(tmp_path) == "unknown"


@pytest.mark.parametrize(
    "error", [PgqueReadOnly("no"), psycopg.errors.SerializationFailure(), psycopg.errors.DiskFull()]
)
def test_a_refused_commit_is_failed(journal, tmp_path, error):
    with Doubt(journal, "t", ["a"]) as doubt:
        doubt.committing()
        raise error
    assert outcome(tmp_path) == "failed"


def test_an_error_of_the_program_is_not_suppressed(journal):
    with pytest.raises(AssertionError), Doubt(journal, "t", ["a"]):
        pass
    with pytest.raises(ZeroDivisionError), Doubt(journal, "t", ["a"]):
        raise ZeroDivisionError


def test_a_killed_producer_leaves_an_unknown_outcome(tmp_path):
    script = """
        import sys, time
        from pathlib import Path
        from bench.chaos.journal import ATTEMPTS, TRANSACTIONS, Doubt, Journal
        folder = Path(sys.argv[1])
        Journal(folder, "c.1", ATTEMPTS).write("one", 1, 2, 0, "z")
        with Doubt(Journal(folder, "p.1", TRANSACTIONS), "t", ["a"]) as doubt:
            doubt.committing()
            print("ready", flush=True)
            time.sleep(60)
    """
    with process(script, str(tmp_path)) as producer:
        assert producer.stdout is not None
        assert producer.stdout.readline() == "ready\n"
        os.kill(producer.pid, signal.SIGKILL)
        eventually(lambda: producer.poll() is not None)
    assert outcome(tmp_path) == "unknown"
    assert read_attempts(tmp_path) == [Attempt("one", 1, 2, 0, "z")]


def test_two_processes_never_write_one_journal(journal, tmp_path):
    with pytest.raises(FileExistsError):
        Journal(tmp_path, "p.1", TRANSACTIONS)


def delivered(*spans: tuple[float, float]) -> list[Recovery]:
    """Ten events per second within the spans; calms of ten seconds start at 0 and at 100."""
    moments = [start + n / 10 for start, end in spans for n in range(int((end - start) * 10))]
    effects = [
        GOOD.effects[0]._replace(number=n, at=moment) for n, moment in enumerate(sorted(moments))
    ]
    history = type(GOOD)(["one"], [], effects)
    return recoveries(history, [(0, 10), (100, 110)], ["fault"])


def test_a_rate_that_recovers_in_time():
    [at_once] = delivered((0, 10), (90, 110))
    assert at_once.seconds == 0
    assert too_late([at_once]) == []
    [later] = delivered((0, 10), (103, 110))
    assert later.seconds == pytest.approx(3, abs=0.3)
    assert too_late([later]) == []


def test_a_rate_that_recovers_late_or_not_for_good():
    for spans in (((0, 10), (106, 110)), ((0, 10),), ((0, 10), (101, 104))):
        [late] = delivered(*spans)
        assert too_late([late]) == [late]
