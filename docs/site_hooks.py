"""Hooks of mkdocs: they add pages from outside docs/ and rewrite links.

The pages are written for a code host, where they can link to every file of the repository. In the
site, a link to a file that is not part of the site becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs/"

MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Pages of the repository that have another name in the site."""

OUTSIDE = [*MOVED, "bench/results/results.md", "bench/results/*.svg"]
"""Files outside docs/ that are part of the site."""

_FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_COMMENT = re.compile(r"^<!-- .*? -->\n", re.MULTILINE)
_CONTENTS = re.compile(r"^(?:- \[[^\]]+\]\(#[^)]+\)\n){3,}", re.MULTILINE)
"""A page's own table of contents. The site shows one next to each page."""


def on_config(config: MkDocsConfig) -> None:
    """Remove missing pages from the navigation (`--strict` reports pages that it lacks)."""
    config.nav = list(_present(config.nav or []))


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the files from outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, _in_site(name), abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Remove text that is meant for tests and code hosts, and rewrite links."""
    parts = _FENCE.split(markdown)
    for number in range(0, len(parts), 2):
        text = _CONTENTS.sub("", _COMMENT.sub("\n", parts[number]))
        parts[number] = _LINK.sub(lambda found: _turned(found, page.file.src_uri, files), text)
    return "".join(parts)


def _turned(found: re.Match[str], page: str, files: Files) -> str:
    """Return a link as it is in the site."""
    mark, words, target = found.groups()
    name, anchor, section = target.partition("#")
    if not name or ":" in name:
        return found[0]
    here = posixpath.dirname(_in_repository(page))
    goal = _in_site(posixpath.normpath(posixpath.join(here, name)))
    file = files.get_file_from_path(goal)
    if file is not None and file.inclusion.is_included():
        back = posixpath.relpath(goal, posixpath.dirname(page) or ".")
        return f"{mark}[{words}]({back}{anchor}{section})"
    if not mark and (ROOT / here / name).exists():
        return words
    return found[0]  # mkdocs reports it as broken


def _in_site(name: str) -> str:
    return MOVED.get(name, name.removeprefix(DOCS))


def _in_repository(uri: str) -> str:
    for name, moved in MOVED.items():
        if uri == moved:
            return name
    return DOCS + uri if (ROOT / DOCS / uri).exists() else uri


def _present(nav: list[Any]) -> Iterator[Any]:
    for entry in nav:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            yield {title: list(_present(value))}
        elif (ROOT / _in_repository(value)).exists():
            yield entry
