"""The bench on a tiny scale: it measures, checks, writes and draws; its speed does not matter."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import check, plots, report
from bench.__main__ import main, run
from bench.arrivals import check as check_arrivals
from bench.measure import (
    Context,
    Row,
    WorkloadFailed,
    bound,
    compared,
    cpu_seconds,
    figure,
    interleave,
    lacking,
    meets,
    rss,
    server_pid,
)
from bench.processes import Crew, span
from bench.workloads import MODULES, TITLES, load

NUMBERS = (1, 2, 3, 4, 8, 10, 12, 13, 14, 15, 16, 17)


class Made:
    """The bench's requirements of a server, met by the test server."""

    def __init__(self, databases, template: str) -> None:
        self._databases = databases
        self._template = template
        self._made: list[str] = []

    def create(self, name: str, with_pgque: bool) -> str:
        dsn = self._databases.create(self._template if with_pgque else "template1")
        self._made.append(dsn)
        return dsn

    def environment(self) -> dict[str, object]:
        return {
            "date": "2026-01-02",
            "postgresql": "18.0",
            "python": "3.13",
            "cores": 2,
            "machine": "x",
            "packages": {"pgque": "1"},
            "settings": {"fsync": "on"},
        }

    def checkpoint(self) -> None:
        pass

    def drop_all(self) -> None:
        while self._made:
            self._databases.drop(self._made.pop())


class Quiet:
    """A progress display that shows nothing."""

    def begin(self, what: str) -> None:
        pass

    say = begin


@pytest.fixture
def made(databases, template: str) -> Iterator[Made]:
    made = Made(databases, template)
    yield made
    made.drop_all()


@pytest.fixture
def context(made: Made) -> Callable[..., Context]:
    def make(*peers: str) -> Context:
        return Context(
            dsn=made.create("bench", True),
            quick=True,
            rounds=1,
            peers=list(peers),
            progress=lambda what: None,
            new_database=made.create,
            tiny=True,
        )

    return make


@pytest.mark.parametrize("number", NUMBERS)
def test_a_workload_returns_rows_and_checks_that_events_arrived(number: int, context) -> None:
    rows = load(number)(context())
    assert number in {row.workload for row in rows}
    for row in rows:
        assert row.value is not None
        assert row.low <= row.value <= row.high
        assert row.unit
        json.dumps(row.detail)
    assert any(row.detail.get("every event arrived") for row in rows)


@pytest.mark.parametrize("number", [2, 4])
def test_a_peer_takes_part_in_a_workload(number: int, context) -> None:
    rows = load(number)(context("textbook"))
    [peer] = [row for row in rows if row.subject == "textbook"]
    assert peer.value > 0


def test_every_workload_has_a_name_and_a_module() -> None:
    assert sorted(TITLES) == sorted(n for numbers in MODULES.values() for n in numbers)


def test_missing_duplicate_and_misordered_events_are_detected() -> None:
    assert check_arrivals([[1, 2, 3]], [1, 2, 3], "one sender") == 3
    assert check_arrivals([[1, 4], [2, 3]], [1, 2, 3, 4], "two senders") == 4
    assert check_arrivals([[1, 4], [2, 3]], [2, 3, 1, 4], "two senders") == 4
    for arrived in ([1, 2], [1, 2, 3, 3], [1, 2, 2], [1, 3, 2], [1, 2, 4]):
        with pytest.raises(WorkloadFailed):
            check_arrivals([[1, 2, 3]], arrived, "one sender")


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def turn(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or len(order)

    figures = interleave({"a": turn("a"), "b": turn("b")}, 20)
    rounds = [order[start : start + 2] for start in range(0, 40, 2)]
    assert ["a", "b"] in rounds
    assert ["b", "a"] in rounds
    assert sorted(figures["a"] + figures["b"]) == list(range(1, 41))


def test_goals_are_parsed_and_compared() -> None:
    assert bound("<= 30 MB") == ("<=", 30)
    assert meets("", 1) is None
    assert meets("<= 1.15", 1.15) is True
    assert meets("< 2", 2) is False
    assert meets(">= 0.9", 0.89) is False
    row = compared(1, "x", "µs", [1, 3, 2], reference="y", reference_samples=[4], goal="<= 0.5")
    assert (row.value, row.low, row.high, row.ratio, row.met) == (2, 1, 3, 0.5, True)
    assert figure(1, "x", "MB", [31], goal="< 30 MB").met is False


class Adder:
    """The object that each process of the crew holds in these tests."""

    def __init__(self, base: int) -> None:
        self._base = base

    def add(self, number: int) -> int:
        return self._base + number


def test_a_crew_runs_calls_and_shows_their_errors() -> None:
    with Crew(2, Adder, 10) as crew:
        turns = crew.call("add", 5)
        assert [turn.result for turn in turns] == [15, 15]
        assert span(turns) >= 0
        assert crew.tell(1, "add", 1).result == 11
        assert all(rss(pid) > 0 and cpu_seconds([pid]) > 0 for pid in crew.pids)
        with pytest.raises(RuntimeError, match="TypeError"):
            crew.tell(0, "add", "x")


def test_the_server_process_is_found(autoconn) -> None:
    pid = server_pid(autoconn)
    assert pid is None or cpu_seconds([pid]) > 0


def sample_rows() -> list[Row]:
    rows = [
        compared(2, "bulk", "events/s", [9e4], reference="raw COPY", reference_samples=[1e5]),
        figure(2, "bulk", "events/s", [2e4], subject="textbook"),
        lacking(2, "bulk", "absurd", "its API has no bulk enqueue"),
        compared(5, "drain", "events/s", [5e4], reference="SELECT", reference_samples=[1e5]),
        figure(17, "growth", "MB", [1.5], goal="< 30 MB"),
        figure(8, "WAL", "bytes", [0], goal="<= 0"),
    ]
    for subject in ("pgque", "textbook"):
        for rate in (1, 100):
            rows.append(figure(6, f"{subject} {rate}", "ms", [2], subject=subject))
            rows[-1].detail |= {"rate": rate, "p99": 4}
        rows.append(figure(9, "cycles", "ms", [2], subject=subject))
        rows[-1].detail |= {"curve": [[1, 2.0], [2, 2.5]], "x": "cycles"}
    for windows in ("windows of 1,000", "one window"):
        for size in (1000, 100_000):
            rows.append(figure(10, f"{windows} {size}", "µs per event", [5]))
            rows[-1].detail |= {"backlog": size, "windows": windows}
    for workers in (1, 2, 4):
        rows.append(figure(13, f"{workers} workers", "messages/s", [workers * 190]))
        rows[-1].detail["workers"] = workers
        rows[-1].ratio = float(workers)
    delays = figure(18, "send to handler, last third", "ms", [3])
    delays.detail["curve"] = [(second, 2000, 3.0, 9.0) for second in range(20)]
    room = figure(18, "most room that the schema took", "MB", [80])
    room.detail["curve"] = [(float(second), 4.0 * second) for second in range(20)]
    lost = figure(18, "events lost", "events", [0], trouble=[("pinned horizon", 4.0, 8.0)])
    return [*rows, lost, delays, room]


def test_results_are_merged_and_written(tmp_path: Path) -> None:
    first = sample_rows()
    report.write(tmp_path, first)
    again = figure(2, "bulk, other sizes", "events/s", [8e4])
    merged = report.write(tmp_path, [again])
    assert len(merged) == len(first)
    assert report.read(tmp_path) == merged
    assert [row.name for row in merged if (row.workload, row.subject) == (2, "pgque")] == [
        "bulk, other sizes"
    ]
    page = (tmp_path / report.MARKDOWN_NAME).read_text(encoding="utf-8")
    assert "its API has no bulk enqueue" in page
    assert "| 17 | growth | pgque | 1.5 |" in page


def test_plots_are_drawn_from_the_result_file(tmp_path: Path) -> None:
    assert plots.draw([], tmp_path) == []
    report.write(tmp_path, sample_rows())
    assert main(["--plots", "--output", str(tmp_path)]) == 0
    drawn = {path.stem for path in tmp_path.glob("*.svg")}
    assert drawn == set(plots.PLOTS)
    before = (tmp_path / "goals.svg").read_bytes()
    plots.draw(report.read(tmp_path), tmp_path)
    assert (tmp_path / "goals.svg").read_bytes() == before


def options(folder: Path, **others: object) -> argparse.Namespace:
    settings = {"quick": True, "rounds": 1, "soak": None, "tiny": True, "check": False}
    return argparse.Namespace(**{**settings, "output": folder, **others})


def test_a_run_stamps_its_rows_and_runs_a_shared_function_once(made: Made, tmp_path: Path) -> None:
    rows, failed = run(made, [4, 5], options(tmp_path), ["textbook"], Quiet())
    assert not failed
    assert len(rows) == 12
    assert {row.workload for row in rows} == {4, 5}
    assert all(row.environment["quick"] for row in rows)
    [peer] = [row for row in rows if row.subject == "textbook"]
    assert peer.environment["packages"] == {}


def test_a_failed_workload_is_reported_and_the_others_still_run(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(context: Context) -> list[Row]:
        raise WorkloadFailed("lost one")

    works = {1: fail, 2: lambda context: [figure(2, "x", "ms", [1])]}
    monkeypatch.setattr("bench.__main__.load", works.__getitem__)
    _, failed = run(made, [1, 2], options(tmp_path), [], Quiet())
    assert len(failed) == 1
    assert "lost one" in failed[0]
    assert [row.name for row in report.read(tmp_path)] == ["x"]


def test_the_check_fails_outside_its_bounds_or_without_a_ratio() -> None:
    def row(workload: int, ratio: float) -> Row:
        return Row(workload, "x", "ms", 1, reference="y", ratio=ratio)

    fine = [row(1, 1.2), row(2, 0.8), row(4, 0.5), row(9, 1.0)]
    assert check.failures(fine) == []
    assert len(check.failures([row(1, 9), *fine[1:]])) == 1
    assert check.failures(fine[:3]) == ["workload 9 has no ratio"]


def test_the_bench_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "12  fanout" in capsys.readouterr().out
    for arguments in (["--only", "nonsense"], ["--peers", "nobody"]):
        with pytest.raises(SystemExit, match=r"nonsense|nobody"):
            main(arguments)
