"""Throw-away clusters, stopped at the end of a test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fix_server import wanted_version
from tests.upgrade.cluster import DEBIAN, Cluster

has_15 = pytest.mark.skipif(not DEBIAN.is_dir(), reason="PostgreSQL 15 is not installed")


@pytest.fixture
def new_cluster(home: Path) -> Iterator[Callable[..., Cluster]]:
    """Create clusters of a version, by default the tested one, without starting them."""
    made: list[Cluster] = []

    def new(name: str, version: int | None = None) -> Cluster:
        known = wanted_version() if wanted_version() in (16, 18) else 18
        made.append(Cluster(version or known, home, name))
        return made[-1]

    yield new
    for cluster in made:
        cluster.stop("immediate")
