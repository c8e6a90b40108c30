"""docs/dashboard.md: its samples run, and the application that it mounts responds."""

from tests.dashboard.conftest import serving
from tests.samples import ROOT, reader, to_url


def test_the_samples_of_the_page_run(tmp_path, home, dsn, monkeypatch):
    with reader(tmp_path, home, monkeypatch, to_url(dsn)) as operator:
        operator.read(ROOT / "docs" / "dashboard.md")
        app = operator.namespace["app"]
        with serving(app) as served, served.client() as client:
            allowed = client.get("/queues/", headers={"Host": "shop.example.com"})
            assert "<title>pgque</title>" in allowed.text
            assert client.get("/queues/").status_code == 421
