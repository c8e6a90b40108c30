"""Write the Grafana board and the tables of observability.md: `python docs/make_observability.py`.

The board is docs/grafana/pgque.json. The tables are between `<!-- figures: NAME -->` and
`<!-- end -->`. They are made from the code.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from pgque import metrics
from pgque.logs import Fields

HERE = Path(__file__).resolve().parent
PAGE = HERE / "observability.md"
BOARD = HERE / "grafana" / "pgque.json"
ALERTS = HERE / "alerts.yml"
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

QUEUES = '{queue=~"$queue"}'
CONSUMERS = '{queue=~"$queue", consumer=~"$consumer"}'
RATE = "$__rate_interval"
SOURCE = {"type": "prometheus", "uid": "${source}"}


def filled(text: str) -> str:
    """Return the page with fresh tables."""
    makers = {
        "database": lambda: _families(metrics.FROM_THE_DATABASE),
        "consumer": lambda: _families(metrics.FROM_A_CONSUMER),
        "alerts": _alerts,
        "fields": _fields,
    }
    return BLOCK.sub(lambda found: found[1] + makers[found[2]]() + found[3], text)


def _families(families: Iterable[metrics.Family]) -> str:
    lines = ["| Metric | Kind | Labels | Meaning |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{family.shown}` | {family.kind} | {labels} | {family.text} |")
    return "\n".join(lines) + "\n"


def _alerts() -> str:
    lines = ["| Alert | Condition | Command |", "|---|---|---|"]
    for rule in rules():
        lasting = f" for {rule['for']}" if "for" in rule else ""
        when = f"`{' '.join(rule['expr'].split())}`{lasting}"
        command = re.sub(r"{{ \$labels\.(\w+) }}", r"\1", rule["annotations"]["command"])
        lines.append(f"| {rule['alert']} | {when} | `{command}` |")
    return "\n".join(lines) + "\n"


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    [group] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def _fields() -> str:
    lines = ["| Field | Meaning |", "|---|---|"]
    for name, words in re.findall(r"^``(\w+)``\s+(.+)$", inspect.getdoc(Fields) or "", re.M):
        lines.append(f"| `{name}` | {words} |")
    return "\n".join(lines) + "\n"


class Board:
    """A Grafana board, laid out from left to right and from top to bottom."""

    def __init__(self) -> None:
        self.panels: list[dict[str, Any]] = []
        self._x = self._y = self._height = 0

    def row(self, title: str) -> None:
        """Start a row with a title."""
        self._y += self._height
        self._x = self._height = 0
        place = {"x": 0, "y": self._y, "w": 24, "h": 1}
        self._add({"type": "row", "title": title, "gridPos": place, "collapsed": False})
        self._y += 1

    def stat(self, title: str, words: str, expr: str, unit: str, *bounds: float) -> None:
        """Add a number that turns orange and then red at the bounds."""
        colours = ["green", "orange", "red"]
        steps = [{"color": c, "value": v} for c, v in zip(colours, [None, *bounds], strict=False)]
        defaults = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}}
        options = {"colorMode": "value", "reduceOptions": {"calcs": ["lastNotNull"]}}
        self._panel("stat", title, words, 4, 4, [(expr, "")], defaults, options)

    def plot(self, title: str, words: str, unit: str, *lines: tuple[str, str]) -> None:
        """Add lines over time, each with an expression and a legend."""
        custom = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
        defaults = {"unit": unit, "min": 0, "custom": custom}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        self._panel("timeseries", title, words, 8, 8, lines, defaults, options)

    def heatmap(self, title: str, words: str, expr: str) -> None:
        """Add the buckets of a histogram over time."""
        options = {
            "calculate": False,
            "yAxis": {"unit": "s"},
            "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
            "cellGap": 1,
        }
        self._panel("heatmap", title, words, 8, 8, [(expr, "{{le}}")], {}, options, "heatmap")

    def _panel(
        self,
        kind: str,
        title: str,
        words: str,
        width: int,
        height: int,
        lines: Iterable[tuple[str, str]],
        defaults: dict[str, Any],
        options: dict[str, Any],
        form: str = "time_series",
    ) -> None:
        if self._x + width > 24:
            self._y += self._height
            self._x = 0
        place = {"x": self._x, "y": self._y, "w": width, "h": height}
        self._x += width
        self._height = height
        targets = [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": expr,
                "legendFormat": legend,
                "format": form,
            }
            for number, (expr, legend) in enumerate(lines)
        ]
        self._add(
            {
                "type": kind,
                "title": title,
                "description": words,
                "datasource": SOURCE,
                "gridPos": place,
                "targets": targets,
                "fieldConfig": {"defaults": defaults, "overrides": []},
                "options": options,
            }
        )

    def _add(self, panel: dict[str, Any]) -> None:
        self.panels.append({"id": len(self.panels) + 1, **panel})


def board() -> dict[str, Any]:
    """Return the board as Grafana imports it."""
    made = Board()
    _overview(made)
    _queues(made)
    _consumers(made)
    _handlers(made)
    return {
        "title": "pgque",
        "uid": "pgque",
        "description": "Queues and consumers of pgque, from pgque metrics and ConsumerMetrics.",
        "tags": ["pgque", "postgresql"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": made.panels,
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
    for name, query in (
        ("queue", "label_values(pgque_queue_paused, queue)"),
        ("consumer", 'label_values(pgque_consumer_batch_open{queue=~"$queue"}, consumer)'),
    ):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _overview(made: Board) -> None:
    made.row("Now")
    made.stat("Database", "1: the database answers.", "min(pgque_up)", "none")
    made.stat(
        "Ticker",
        "1: a ticker is running. Behind a pooler it is always 0.",
        "max(pgque_ticker_leading)",
        "none",
    )
    sent = f"sum(rate(pgque_queue_events_sent_total{QUEUES}[{RATE}]))"
    made.stat("Sent", "Events per second.", sent, "cps")
    lag = f"max(pgque_consumer_lag_seconds{CONSUMERS})"
    made.stat("Longest wait", "The longest wait of a consumer's event.", lag, "s", 60, 600)
    waiting = f"sum(pgque_queue_retries_waiting{QUEUES})"
    made.stat("Retries", "Messages that wait for a retry.", waiting, "short", 100, 1000)
    dead = f"sum(pgque_queue_dead_letters{QUEUES})"
    made.stat("Dead letters", "To list them: pgque dead list.", dead, "short", 1, 100)


def _queues(made: Board) -> None:
    made.row("Queues")
    sent = f"rate(pgque_queue_events_sent_total{QUEUES}[{RATE}])"
    made.plot("Sent", "Events per second.", "cps", (sent, "{{queue}}"))
    made.plot(
        "Ticks",
        "Age of the newest tick, and of the oldest event that waits for one. An idle queue gets no "
        "new ticks.",
        "s",
        (f"pgque_queue_tick_age_seconds{QUEUES}", "{{queue}}"),
        (f"pgque_queue_unticked_seconds{QUEUES}", "{{queue}} waits"),
    )
    for title, words, unit, name in (
        ("Not ticked", "Events that no tick covers yet.", "short", "events_unticked"),
        ("Retries", "Messages that wait for a retry.", "short", "retries_waiting"),
        ("Dead letters", "Messages that failed too often.", "short", "dead_letters"),
    ):
        made.plot(title, words, unit, (f"pgque_queue_{name}{QUEUES}", "{{queue}}"))
    age = f"pgque_queue_rotation_age_seconds{QUEUES} / pgque_queue_rotation_period_seconds{QUEUES}"
    made.plot(
        "Rotation",
        "Rotation periods since the log was rotated. Above 3, the log grows.",
        "none",
        (age, "{{queue}}"),
    )


def _consumers(made: Board) -> None:
    made.row("Consumers")
    legend = "{{queue}} / {{consumer}}"
    for title, words, unit, name in (
        ("Waiting", "Time that its oldest event has waited.", "s", "lag_seconds"),
        ("Pending", "Events that the consumer has not finished.", "short", "pending_events"),
        ("Last seen", "Time since the last sign of life.", "s", "last_seen_seconds"),
        ("State", "0 ok, 1 behind, 2 stuck, 3 silent, 4 crash loop.", "none", "state"),
        ("Takeovers", "Takeovers of its piece in a row; 3 are a crash loop.", "none", "takeovers"),
    ):
        made.plot(title, words, unit, (f"pgque_consumer_{name}{CONSUMERS}", legend))


def _handlers(made: Board) -> None:
    made.row("Handlers (ConsumerMetrics)")
    rate = f"rate(pgque_consumer_messages_total{CONSUMERS}[{RATE}])"
    rate = f"sum by (queue, consumer, outcome) ({rate})"
    made.plot("Messages", "Per second, by outcome.", "cps", (rate, "{{consumer}} {{outcome}}"))
    for title, words, name in (
        ("Delivery", "From a send to the handler, first deliveries only.", "delivery_seconds"),
        ("Handling", "Time in the handler.", "handling_seconds"),
    ):
        buckets = f"rate(pgque_consumer_{name}_bucket{CONSUMERS}[{RATE}])"
        lines = [
            (
                f"histogram_quantile({quantile}, sum by (queue, consumer, le) ({buckets}))",
                f"{{{{consumer}}}} {words_of}",
            )
            for quantile, words_of in ((0.5, "median"), (0.99, "99 %"))
        ]
        made.plot(title, words, "s", *lines)
    for title, name in (("Delivery times", "delivery"), ("Handling times", "handling")):
        buckets = f"rate(pgque_consumer_{name}_seconds_bucket{CONSUMERS}[{RATE}])"
        made.heatmap(title, "Messages per second by time taken.", f"sum by (le) ({buckets})")


def board_as_text() -> str:
    """Return the text of the board's file."""
    return json.dumps(board(), indent=2) + "\n"


def main() -> None:
    """Write the board and the tables."""
    BOARD.write_text(board_as_text(), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
