"""docs/how-to/: each page is followed from top to bottom, in a fresh database."""

from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgque.embedded import Server
from tests.fix_pooler import pooler_at_hand, running_pooler
from tests.samples import ROOT, reader, to_url

HOW_TO = ROOT / "docs" / "how-to"

ON_A_SERVER_OF_THEIR_OWN = ["several-applications", "remove"]
"""They make and drop roles, which belong to the whole cluster."""
ELSEWHERE = [*ON_A_SERVER_OF_THEIR_OWN, "index", "managed-services", "pgbouncer"]
PAGES = sorted(path.stem for path in HOW_TO.glob("*.md") if path.stem not in ELSEWHERE)


def follow(page: str, dsn: str, folder: Path, home: Path, patch: pytest.MonkeyPatch) -> None:
    with reader(folder, home, patch, dsn) as user:
        user.read(HOW_TO / f"{page}.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_page_works_as_written(
    page: str, dsn: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(page, to_url(dsn), tmp_path, home, monkeypatch)


def test_the_page_on_managed_services_works(
    empty_dsn: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow("managed-services", to_url(empty_dsn), tmp_path, home, monkeypatch)


@pooler_at_hand
def test_the_page_on_pgbouncer_works(
    server_dsn: str, direct_dsn: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_pooler(server_dsn) as pooler:
        follow("pgbouncer", to_url(pooler.dsn(direct_dsn)), tmp_path, home, monkeypatch)


@pytest.mark.parametrize("page", ON_A_SERVER_OF_THEIR_OWN)
def test_the_page_works_as_written_for_an_administrator(
    page: str,
    new_server: Callable[..., Server],
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = new_server()
    parts = conninfo_to_dict(server.dsn)
    for name, part in (("PGHOST", "host"), ("PGPORT", "port"), ("PGUSER", "user")):
        monkeypatch.setenv(name, str(parts[part]))
    follow(page, to_url(server.dsn), tmp_path, home, monkeypatch)
