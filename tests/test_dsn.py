"""Connection strings that pgque returns are URLs, whatever form it was given."""

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text

from pgque.dsn import to_url
from pgque.testing import Databases, Kit, find_server


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("", "postgresql:///"),
        ("dbname=shop", "postgresql:///shop"),
        ("postgres://ann@db/shop", "postgresql://ann@db/shop"),
        ("user=ann host=db port=5433 dbname=shop", "postgresql://ann@db:5433/shop"),
        ("host=::1 dbname=shop", "postgresql://[::1]/shop"),
        ("host=/tmp/s port=5433 dbname=shop", "postgresql:///shop?host=/tmp/s&port=5433"),
        ("host=a,b port=1,2", "postgresql:///?host=a%2Cb&port=1%2C2"),
        ("user=ann password='a b:@/%+'", "postgresql://ann:a%20b%3A%40%2F%25%2B@/"),
        ("password=secret dbname=shop", "postgresql:///shop?password=secret"),
        ("host=@abstract", "postgresql:///?host=%40abstract"),
        ("host=/tmp/%s dbname='a/b?c'", "postgresql:///a%2Fb%3Fc?host=/tmp/%25s"),
        ("options='-c role=a+b'", "postgresql:///?options=-c%20role%3Da%2Bb"),
        ("service=shop connect_timeout=3", "postgresql:///?service=shop&connect_timeout=3"),
        ("host=fe80::1%eth0", "postgresql:///?host=fe80%3A%3A1%25eth0"),
    ],
)
def test_a_connection_string_becomes_an_equivalent_url(dsn: str, url: str) -> None:
    assert to_url(dsn) == url
    assert conninfo_to_dict(to_url(dsn)) == conninfo_to_dict(dsn)
    assert to_url(url) == url


def test_parts_of_a_url_can_be_changed_or_removed() -> None:
    url = "postgresql://ann:secret@db/shop?connect_timeout=3"
    assert (
        to_url(url, dbname="other", password=None) == "postgresql://ann@db/other?connect_timeout=3"
    )


def in_keywords(dsn: str) -> str:
    return psycopg.conninfo.make_conninfo(**conninfo_to_dict(dsn))


def test_the_databases_of_tests_have_urls(server_dsn: str) -> None:
    with Databases(in_keywords(server_dsn)) as databases:
        dsn = databases.create()
        try:
            assert dsn.startswith("postgresql://")
            engine = create_engine(dsn.replace("postgresql:", "postgresql+psycopg:"))
            with engine.connect() as conn:
                found = conn.execute(text("select current_database()")).scalar_one()
            engine.dispose()
            assert found == conninfo_to_dict(dsn)["dbname"]
        finally:
            databases.drop(dsn)


def test_the_server_of_tests_has_a_url(server_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUE_TEST_DSN", in_keywords(server_dsn))
    with find_server() as dsn:
        assert dsn.startswith("postgresql://")
        assert conninfo_to_dict(dsn) == conninfo_to_dict(server_dsn)


def test_a_kit_returns_a_url_however_it_was_made(dsn: str) -> None:
    with Kit(in_keywords(dsn)) as kit, psycopg.connect(in_keywords(dsn)) as conn:
        for one in (kit, Kit(conn)):
            assert one.dsn.startswith("postgresql://")
            with psycopg.connect(one.dsn) as again:  # a connection's DSN omits libpq's defaults
                assert again.info.dsn == conn.info.dsn


def test_documents_use_urls_where_samples_need_them() -> None:
    """A sample that sets PGQUE_DSN, or replaces a part of it, needs a URL."""
    root = Path(__file__).parent.parent
    for page in [root / "README.md", *root.glob("docs/**/*.md")]:
        for line in page.read_text().splitlines():
            if "PGQUE_DSN=" in line:
                value = line.split("PGQUE_DSN=", 1)[1].strip("'\"")
                assert value.startswith(("postgresql:", "$", "`", "…")), f"{page.name}: {line}"
