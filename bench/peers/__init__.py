"""The queues that users would pick instead of pgque, each through its own documented API.

One module per peer. A module imports its package at the top, so importing the module tells
whether the peer is installed. The `textbook` queue needs no package. `ours` is pgque behind the
same interface. `notify` is not a queue but the floor below all of them. All run through the same
code.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import threading
from collections.abc import Callable
from typing import ClassVar, Protocol, cast
from urllib.parse import urlencode

from psycopg.conninfo import conninfo_to_dict

CLASSES = {
    "textbook": "Textbook",
    "procrastinate": "Procrastinate",
    "pgqueuer": "Pgqueuer",
    "awa": "Awa",
    "absurd": "Absurd",
    "chancy": "Chancy",
}
"""The name of each peer, which is also its module, and its class there."""

NAMES = tuple(CLASSES)
NO_PEERS = {"ours": "Ours", "notify": "Notify"}
"""The other contestants that run through the same code: pgque itself and the NOTIFY floor."""

QUEUE = "bench"


class Peer(Protocol):
    """A queue that takes part. One object belongs to one process and one thread."""

    name: ClassVar[str]
    package: ClassVar[str]
    """Its distribution on PyPI; empty if it has none."""
    lacks: ClassVar[dict[str, str]]
    """What it cannot do (`bulk`, `cycle`), and why."""

    def __init__(self, dsn: str) -> None: ...

    def set_up(self) -> None:
        """Make the schema and a queue by its documented means."""

    def enqueue(self, payload: str) -> None:
        """Send one job in a transaction of its own, committed on return."""

    def enqueue_many(self, payloads: list[str]) -> None:
        """Send many jobs with its own bulk call; see ``lacks["bulk"]``."""

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        """Consume with its own worker until `stop` is set. Runs in a process of its own."""

    def cycle(self, payload: str) -> None:
        """Send one job, fetch it and complete it; see ``lacks["cycle"]``."""

    def tear_down(self) -> None:
        """Close this object's connections. The maker of the database drops it."""


class UnavailableError(Exception):
    """A peer's package cannot be imported here."""


def load(name: str) -> type[Peer]:
    """Import a peer's class by its name; raise `UnavailableError` if its package is missing."""
    try:
        module = importlib.import_module(f"bench.peers.{name}")
    except ImportError as error:
        raise UnavailableError(f"{name}: {error}") from error
    return cast("type[Peer]", getattr(module, (CLASSES | NO_PEERS)[name]))


def installed() -> list[str]:
    """Return the names of the peers whose packages can be imported."""
    return [name for name in NAMES if missing(name) is None]


def missing(name: str) -> str | None:
    """Return why a peer cannot run here; None if it can."""
    try:
        load(name)
    except UnavailableError as error:
        return str(error)
    return None


def version(name: str) -> str:
    """Return the version of a peer's package; an empty string for a peer without a package."""
    package = load(name).package
    return importlib.metadata.version(package) if package else ""


def url(dsn: str) -> str:
    """Return libpq's connection string as a URL that every driver accepts, also without a host."""
    parts = conninfo_to_dict(dsn)
    database = str(parts.pop("dbname", ""))
    query = urlencode({key: str(value) for key, value in parts.items()})
    return f"postgresql:///{database}?{query}"


def when(stop: threading.Event, act: Callable[[], None]) -> None:
    """Call a function once an event is set."""

    def wait() -> None:
        stop.wait()
        act()

    threading.Thread(target=wait, daemon=True).start()
