"""Prometheus and Grafana: the dashboard, the alerts and the tables in the documents."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import promql_parser
import pytest
import typer.main

from pgque import metrics
from pgque.cli.app import app
from tests.running import PATIENCE
from tests.samples import ROOT

DOCS = ROOT / "docs"
HOW_TO_REFRESH = "run python docs/make_observability.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("make_observability")


def samples() -> dict[str, set[str]]:
    """The names that can be queried in Prometheus, each with its labels."""
    found: dict[str, set[str]] = {}
    for family in (*metrics.FROM_THE_DATABASE, *metrics.FROM_A_CONSUMER):
        labels = set(family.labels)
        if family.kind == "histogram":
            for suffix in ("_count", "_sum"):
                found[family.name + suffix] = labels
            found[family.name + "_bucket"] = labels | {"le"}
        else:
            found[family.shown] = labels
    return found


def selectors(node: Any) -> Iterator[Any]:
    """The nodes of an expression that name a metric."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    if isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
        return
    inner = [getattr(node, name, None) for name in ("expr", "lhs", "rhs")]
    for part in [*inner, *(getattr(node, "args", None) or [])]:
        if part is not None:
            yield from selectors(part)


def check(expr: str) -> None:
    """Check that an expression is PromQL and uses only existing metrics and labels."""
    text = expr.replace("$__rate_interval", "5m").replace("$queue", "q").replace("$consumer", "c")
    assert "$" not in text
    known = samples()
    found = list(selectors(promql_parser.parse(text)))
    assert found, expr
    for selector in found:
        assert selector.name in known, selector.name
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= known[selector.name], expr
    for grouping in re.findall(r"\bby \(([^)]*)\)", text):
        for selector in found:
            assert set(re.findall(r"\w+", grouping)) <= known[selector.name], expr


def test_an_expression_with_an_unknown_metric_or_label_is_detected():
    check("rate(pgque_consumer_messages_total[5m])")
    for wrong in (
        "rate(pgque_consumer_messages[5m])",
        'pgque_queue_paused{consumer="x"} == 1',
        "sum by (consumer) (pgque_queue_paused)",
    ):
        with pytest.raises(AssertionError):
            check(wrong)
    with pytest.raises(ValueError, match=r".+"):
        check("rate(pgque_queue_paused)")


# The Grafana dashboard


def test_the_dashboard_file_is_fresh(script):
    assert script.BOARD.read_text() == script.board_as_text(), HOW_TO_REFRESH


def test_every_panel_uses_existing_metrics(script):
    panels = [panel for panel in script.board()["panels"] if panel["type"] != "row"]
    assert len(panels) > 15
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            check(target["expr"])
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert labels <= {"queue", "consumer", "outcome", "le"}


def test_every_metric_is_on_the_dashboard(script):
    shown = script.board_as_text()
    for family in (*metrics.FROM_THE_DATABASE, *metrics.FROM_A_CONSUMER):
        assert family.name in shown, family.name


def test_the_variables_of_the_dashboard_are_labels_of_metrics(script):
    for variable in script.board()["templating"]["list"]:
        if variable["type"] == "query":
            expr, label = re.fullmatch(
                r"label_values\((.*), (\w+)\)", variable["definition"]
            ).groups()
            check(expr)
            assert label == variable["name"]


def test_panels_do_not_overlap(script):
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in script.board()["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        ids.add(panel["id"])
    assert len(ids) == len(script.board()["panels"])


# The alerts


def test_every_alert_names_the_fault_and_its_remedy(script):
    commands = typer.main.get_command(app)
    rules = script.rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        check(rule["expr"])
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description", "command"}
        for text in rule["annotations"].values():
            for label in re.findall(r"\$labels\.(\w+)", text):
                assert label == "instance" or f"{label}" in {"queue", "consumer"}
        command: Any = commands
        for word in shlex.split(rule["annotations"]["command"])[1:]:
            if getattr(command, "commands", None):
                command = command.commands[word]
        assert not getattr(command, "commands", None), rule["annotations"]["command"]


def test_labels_in_an_alert_exist_on_its_metrics(script):
    known = samples()
    for rule in script.rules():
        asked = list(selectors(promql_parser.parse(rule["expr"])))
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) - {"instance"}
        for selector in asked:
            assert used <= known[selector.name], rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_promtool_accepts_the_rules_and_alerts_fire_when_they_should():
    for arguments in (["check", "docs/alerts.yml"], ["test", "tests/alerts.test.yml"]):
        call = ["promtool", arguments[0], "rules", arguments[1]]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr


# The documentation page


def test_the_tables_are_fresh(script):
    text = script.PAGE.read_text()
    assert len(script.BLOCK.findall(text)) == 4
    assert script.filled(text) == text, HOW_TO_REFRESH
