"""A test kit for applications that use pgque (extra ``testing``).

`Kit` works on any database in which pgque is installed and that belongs to the test. The pytest
plugin `pytest_pgque` creates such databases. See `docs/testing.md` for both.

    with Kit(dsn) as kit:
        kit.queue("orders", "shipping")
        place_order("Ada")
        kit.assert_sent("orders", type="order.placed")
        kit.drain(consumer)
"""

from pgque.testing.clock import advance
from pgque.testing.databases import Databases
from pgque.testing.draining import Drained, Failure, HandlerFailed
from pgque.testing.kit import Kit
from pgque.testing.server import find_server
from pgque.testing.shared import shared_server

__all__ = [
    "Databases",
    "Drained",
    "Failure",
    "HandlerFailed",
    "Kit",
    "advance",
    "find_server",
    "shared_server",
]
