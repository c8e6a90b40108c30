"""The pages in docs/: samples run, generated pages are fresh, and links lead somewhere."""

import importlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import psycopg
import pytest

from pgque import errors
from pgque.cli.app import command
from pgque.embedded import Server
from tests.samples import NOT_RUN, ROOT, reader, steps, to_url

DOCS = ROOT / "docs"
HOW_TO = sorted(DOCS.glob("how-to/*.md"))
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *HOW_TO]
HOW_TO_REFRESH = "run python docs/make_reference.py"


def test_samples_of_the_tutorial_run(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reader(tmp_path, home, monkeypatch, "") as newcomer:
        newcomer.read(DOCS / "tutorial.md")


STAND_IN = """#!/bin/sh
# python3 -m venv FOLDER, and every program in FOLDER/bin
case "$2" in
    venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/pip" && : >"$3/bin/activate" ;;
    *) echo "${0##*/} $*" ;;
esac
"""


def test_the_tutorial_works_outside_the_clone(tmp_path: Path) -> None:
    """Inside the clone, pytest would use its options, which need plugins a newcomer lacks."""
    first = next(step for step in steps(DOCS / "tutorial.md") if step.language)
    clone = tmp_path / "clone"
    programs = tmp_path / "programs"
    for folder in (clone, programs):
        folder.mkdir()
    (programs / "python3").write_text(STAND_IN)
    (programs / "python3").chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{first.text}\npwd"],
        cwd=clone,
        env={**os.environ, "PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    installed, where = done.stdout.splitlines()
    assert installed == "pip install .[demo,testing]"
    assert clone not in (Path(where), *Path(where).parents)


def test_samples_of_the_concepts_run(
    tmp_path: Path, home: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reader(tmp_path, home, monkeypatch, to_url(dsn)) as engineer:
        engineer.read(DOCS / "concepts.md")


def test_samples_of_operations_run(
    tmp_path: Path, home: Path, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(own_server.dsn)
    for name, part in (("PGHOST", "host"), ("PGPORT", "port"), ("PGUSER", "user")):
        monkeypatch.setenv(name, str(parts[part]))
    with reader(tmp_path, home, monkeypatch, to_url(own_server.dsn)) as operator:
        operator.read(DOCS / "operations.md")


def test_samples_of_observability_run(
    tmp_path: Path, home: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reader(tmp_path, home, monkeypatch, to_url(dsn)) as operator:
        operator.read(DOCS / "observability.md")


def test_every_page_with_samples_is_tested() -> None:
    read = {
        "README.md",
        "concepts.md",
        "dashboard.md",
        "frameworks.md",
        "observability.md",
        "operations.md",
        "testing.md",
        "tutorial.md",
    }
    for page in PAGES:
        if page.name not in read and page not in HOW_TO:  # test_how_to.py runs those
            assert {step.language for step in steps(page)} <= {"text"}, page


def test_every_reason_not_to_run_a_sample_is_used() -> None:
    reasons = {step.notes.get("not run") for page in PAGES for step in steps(page)}
    assert reasons - {None} == NOT_RUN.keys()


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import one of the scripts in docs/."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module


def test_performance_figures_match_the_results(scripts: Callable[[str], ModuleType]) -> None:
    performance = scripts("make_performance")
    for page in performance.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- figures:" in text
        fresh = performance.filled(text, performance.read(performance.RESULTS))
        assert fresh == text, f"{page}: run python docs/make_performance.py"


def test_reliability_figures_match_the_runs(
    scripts: Callable[[str], ModuleType],
) -> None:
    reliability = scripts("make_reliability")
    for page in reliability.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- figures:" in text
        fresh = reliability.filled(text, reliability.read())
        assert fresh == text, "run python docs/make_reliability.py"


def test_the_sql_reference_is_fresh(
    scripts: Callable[[str], ModuleType], autoconn: psycopg.Connection
) -> None:
    page = scripts("reference_sql").sql_reference(autoconn)
    assert (DOCS / "reference-sql.md").read_text() == page, HOW_TO_REFRESH


def test_the_python_reference_is_fresh(scripts: Callable[[str], ModuleType]) -> None:
    page = scripts("reference_python").python_reference()
    assert (DOCS / "reference-python.md").read_text() == page, HOW_TO_REFRESH


def test_the_command_line_prints_the_output_in_its_reference(
    scripts: Callable[[str], ModuleType], dsn: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = scripts("reference_cli")
    for name, text in reference.FILES.items():
        (home / name).write_text(text)
    monkeypatch.chdir(home)
    written = (DOCS / "reference-cli.md").read_text()
    known = {"pgque demo": reference.examples(written)["pgque demo"]}  # run in e2e/test_demo.py
    page = reference.cli_reference(dsn, lambda: scripts("make_reference").let_die(dsn), known)
    same = reference.without_what_varies
    assert same(written) == same(page), HOW_TO_REFRESH


def test_every_command_has_an_example(scripts: Callable[[str], ModuleType]) -> None:
    def names(group: Any, before: str) -> Iterator[str]:
        for name, found in group.commands.items():
            more = f"{before} {name}"
            yield from names(found, more) if hasattr(found, "commands") else [more]

    shown = scripts("reference_cli").examples((DOCS / "reference-cli.md").read_text())
    assert shown.keys() == set(names(command(), "pgque"))
    for name, example in shown.items():
        assert example.startswith((f"$ {name}", "![")), name


def test_the_pictures_are_fresh(scripts: Callable[[str], ModuleType]) -> None:
    for name, draw in scripts("make_pictures").PICTURES.items():
        svg = draw().svg()
        ElementTree.fromstring(svg)
        assert (DOCS / name).read_text() == svg, "run python docs/make_pictures.py"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("https:"):
            file, _, anchor = target.partition("#")
            goal = page.parent / file if file else page
            assert goal.exists(), target
            assert not anchor or anchor in anchors(goal), target


def is_error(value: object) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, errors.PgqueError)
        and value is not errors.PgqueError
    )


def test_the_table_of_errors_is_complete() -> None:
    table = (DOCS / "operations.md").read_text().split("\n## Errors\n")[1]
    rows = dict(re.findall(r"^\| (PQ\d{3}) \| `(\w+)`", table, re.MULTILINE))
    known = {state: kind for state, kind in errors._BY_SQLSTATE.items() if state.startswith("PQ")}
    assert rows == {state: kind.__name__ for state, kind in known.items()}
    classes = {kind.__name__ for kind in vars(errors).values() if is_error(kind)}
    assert classes == set(re.findall(r"`(Pgque\w+)`", table))


def test_the_table_of_settings_is_complete(autoconn: psycopg.Connection, queue: str) -> None:
    table = (DOCS / "operations.md").read_text().split("\n## Settings of a queue\n")[1]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, re.MULTILINE)
    with pytest.raises(psycopg.Error) as caught:
        autoconn.execute("select pgque.set_queue_config(%s, 'no such setting', null)", [queue])
    hint = caught.value.diag.message_hint or ""
    assert {name for name, _ in rows} == set(re.findall(r"\w+_\w+", hint))
    for name, default in rows:
        query = f"select queue_{name} = %s from pgque.queue where queue_name = %s"
        assert autoconn.execute(query.encode(), [default, queue]).fetchone() == (True,), name
