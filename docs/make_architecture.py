"""Draw the pictures of architecture.md: `python docs/make_architecture.py`."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs.make_pictures import WIDTH, Picture


def architecture() -> Picture:
    """Draw the tables, the calls that write them on the left, and the way back on the right."""
    picture = Picture("The tables of pgque and the calls that write and read them", 530)
    picture.text(
        WIDTH / 2,
        32,
        "Rows in blue and yellow are only inserted; TRUNCATE returns their space.",
    )
    left, width, height = 200.0, 260.0, 64.0
    right = left + width
    tables = [
        (62, "a", "event_N: the log", "events; three children in turn"),
        (162, "b", "tick", "snapshots; two children in turn"),
        (256, "b", "cursor", "positions; two children in turn"),
        (352, "c", "retry_queue", "events that wait for a retry"),
        (438, "c", "dead_letter", "events that failed too often"),
    ]
    for y, kind, name, words in tables:
        picture.box(left, y, width, height, kind)
        picture.text(left + width / 2, y + 27, name)
        picture.text(left + width / 2, y + 49, words, kind="dim")
    for y, name in ((94, "send"), (194, "ticker"), (288, "receive, ack"), (380, "nack")):
        picture.text(left - 70, y + 5, name, at="end")
        picture.line(left - 60, y, left - 4, y, "axis", "arrow")
    picture.line(left - 60, 386, left - 4, 466, "axis", "arrow")
    picture.text(left - 52, 440, "at max_retries", at="end", kind="dim")
    picture.line(right, 76, right + 190, 76, "axis", "arrow")
    picture.text(right + 198, 81, "receive", at="start")
    picture.text(left + width / 2, 244, "the ledger", kind="dim")
    for y, top, lane, words in (
        (384, 114, 60, "maint"),
        (470, 100, 130, "dlq_replay"),
    ):
        picture.line(right, y, right + lane, y, "axis")
        picture.line(right + lane, y, right + lane, top, "axis")
        picture.line(right + lane, top, right + 4, top, "axis", "arrow")
        picture.text(right + lane + 8, y - 6, words, at="start", kind="dim")
    return picture


def window() -> Picture:
    """Draw two ticks and the transactions in the window between them."""
    picture = Picture("A window: a range of transactions, and late ones", 270)
    left, step = 120.0, 76.0
    for number, txid in enumerate(range(100, 108)):
        picture.text(left + number * step + 30, 40, str(txid), kind="dim")
    picture.text(left - 20, 40, "transaction", at="end", kind="dim")
    seen = {
        "tick 1": {100: "d", 101: "c", 102: "d", 103: "c"},
        "tick 2": {100: "c", 101: "c", 102: "d", 103: "c", 104: "c", 105: "d", 106: "c"},
        "window": {100: "b", 104: "a", 106: "a"},
    }
    words = {"a": "range", "b": "late", "c": "sees", "d": "runs"}
    for row, (name, transactions) in enumerate(seen.items()):
        y = 60 + row * 64
        picture.text(left - 20, y + 26, name, at="end")
        for txid, kind in transactions.items():
            x = left + (txid - 100) * step
            picture.box(x, y, 60, 42, kind)
            picture.text(x + 30, y + 26, words[kind])
    for name, number in (("xmax 104", 4), ("xmax 107", 7)):
        row = 0 if number == 4 else 1
        x = left + number * step - 8
        picture.line(x, 56 + row * 64, x, 106 + row * 64, "tick")
        picture.text(x + 6, 82 + row * 64, name, at="start", kind="dim")
    return picture


PICTURES = {"architecture": architecture, "window": window}


def main() -> None:
    """Write every picture."""
    for name, draw in PICTURES.items():
        (Path(__file__).parent / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
