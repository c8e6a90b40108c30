"""The demo's output: the live view and the plain lines."""

import datetime
import io
import re
from dataclasses import replace
from decimal import Decimal

import pytest
from rich.console import Console

from pgque.demo.picture import draw
from pgque.demo.scene import Scene
from pgque.demo.view import PlainView, choose_view
from pgque.demo.watch import Figures, Reading


@pytest.fixture
def scene():
    figures = Figures(delivered=6099, lag=0.9996, median=0.0123, p99=12.71)
    reading = Reading(
        sent=6099,
        departure=datetime.datetime(2013, 1, 4, 10, 30),
        consumers={"delays": figures, "gates": figures, "audit": figures},
        retries=70,
        dead=35,
        carriers=[("UA", 1067, Decimal("9.52")), ("HA", 7, Decimal("-3.10"))],
    )
    pids = {"delays": 4194301, "gates-1": 4194302, "gates-2": 4194303, "audit": 4194304}
    happenings = [f"{n:5.1f} s  something happened" for n in range(9)]
    return Scene(6099, pids, {"gates-1"}, reading, elapsed=21.3, happenings=happenings)


def drawn(scene, width=80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(draw(scene))
    return console.file.getvalue().splitlines()


def test_the_view_fits_a_small_terminal(scene):
    lines = drawn(scene)
    assert len(lines) <= 22
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in "".join(lines)


def test_the_view_contains_all_figures(scene):
    text = "\n".join(drawn(scene))
    assert "6,099 of 6,099 sent" in text
    assert "Fri 4 Jan 10:30" in text
    for row in (
        ["delays", "4194301", "6,099", "1 s", "12 ms", "13 s", "0", "0"],
        ["gates", "killed", "4194303", "6,099", "1 s", "12 ms", "13 s", "0", "0"],
        ["audit", "4194304", "6,099", "1 s", "12 ms", "13 s", "70", "35"],
    ):
        assert " ".join(row) in " ".join(text.split())
    assert "8.0 s  something happened" in text


def test_the_view_keeps_its_height(scene):
    full = drawn(scene)
    scene.reading = Reading(0, None, dict.fromkeys(scene.reading.consumers, Figures()), 0, 0, [])
    scene.happenings = []
    assert len(drawn(scene)) == len(full)


def test_there_is_a_view_before_the_first_reading():
    assert drawn(Scene(6099))


def test_plain_lines_are_printed_once_a_second(scene, capsys):
    with PlainView() as view:
        for elapsed in (0.0, 0.5, 1.0):
            scene.elapsed = elapsed
            view.show(scene)
    header, *lines = capsys.readouterr().out.splitlines()
    assert "median" in header
    assert lines[:9] == scene.happenings
    assert [line.split("  ")[:3] for line in lines[9:]] == [
        ["", "0.0 s", "sent 6,099/6,099"],
        ["", "1.0 s", "sent 6,099/6,099"],
    ]
    assert "delays 6,099 (1 s, 12 ms, 13 s)" in lines[9]
    assert lines[9].endswith("retries 70  dead letters 35")


def test_without_a_terminal_lines_are_plain(capsys):
    assert isinstance(choose_view(None), PlainView)


def test_the_longest_delay_is_not_shown_in_the_colour_of_success(scene):
    carriers = [("EV", 9, Decimal("31.0")), ("UA", 9, Decimal("9.5")), ("HA", 7, Decimal("-3.1"))]
    scene = replace(scene, reading=replace(scene.reading, carriers=carriers))
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(draw(scene))
    lines = console.file.getvalue().splitlines()
    colours = {
        name: set(re.findall(r"\x1b\[(?:1;)?(3\d)m━", line))
        for name in ("EV", "UA")
        for line in lines
        if f"{name}\x1b" in line
    }
    assert colours == {"EV": {"31"}, "UA": {"33"}}, "red is late, yellow a little, green is done"
