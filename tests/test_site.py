"""The site: it builds without warnings, all links work, and it fetches nothing from elsewhere."""

import fcntl
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.samples import ROOT

CHROMIUM = Path("/usr/bin/chromium")

LOADED = {"href": {"link"}, "src": {"audio", "embed", "iframe", "img", "script", "source", "video"}}
"""Attributes whose address a browser fetches by itself, and where."""
ADDRESS_IN_STYLE = re.compile(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//")


class Links(HTMLParser):
    """The addresses that a page fetches or links to, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: set[str] = set()
        self.led_to: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if tag in LOADED.get(name, ()):
                self.fetched.add(value)
            elif (tag, name) == ("a", "href"):
                self.led_to.add(value)
            elif name == "id":
                self.anchors.add(value)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once for all workers of the run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, unfinished = base / "site", base / "unfinished-site"
    with (base / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            done = subprocess.run(
                [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", unfinished],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            unfinished.rename(folder)
    return folder


def outside(address: str) -> bool:
    return re.match(r"[a-z]+:|//", address) is not None and not address.startswith("data:")


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not list(filter(outside, Links(page).fetched)), page
    for style in [*site.rglob("*.css"), *site.rglob("*.svg"), *site.rglob("*.html")]:
        text = style.read_text(encoding="utf-8")
        assert not ADDRESS_IN_STYLE.search(text), style


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html")}
    for page, links in pages.items():
        if page.name == "404.html":  # its links are relative to the server's root
            continue
        for address in filter(lambda address: not outside(address), links.fetched | links.led_to):
            name, _, anchor = address.partition("#")
            goal = (page.parent / name.partition("?")[0]).resolve() if name else page
            goal = goal / "index.html" if goal.is_dir() else goal
            assert goal.is_relative_to(site.resolve()), (page, address)
            assert goal.exists(), (page, address)
            if anchor and goal in pages:
                assert anchor in pages[goal].anchors, (page, address)


def test_files_that_only_make_or_check_the_pages_are_not_published(site: Path) -> None:
    published = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    assert "reliability/chaos.html" in published
    assert not {path for path in published if path.endswith((".py", ".pyc", ".md"))}
    assert not {path for path in published if path.startswith("reliability/") and "json" in path}
    assert "examples" not in published


def test_tables_and_blocks_are_recognized(site: Path) -> None:
    for page in site.rglob("*.html"):
        words = re.sub(
            r"<(pre|code)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        assert "|--" not in words, page
        assert "```" not in words, page


def test_comments_for_the_tests_are_not_published(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<!-- (?:check|file|figures|not run|prints|stop)\b", text), page


@pytest.mark.skipif(not CHROMIUM.exists(), reason="chromium is not installed")
def test_the_search_works_from_local_files(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    asked = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"], chromium_sandbox=False
        )
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(site.joinpath("index.html").as_uri())
        page.get_by_role("textbox", name="Search").fill("fencing")
        found = page.locator(".md-search-result__link[href*='concepts.html']").first
        found.wait_for(state="attached")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
