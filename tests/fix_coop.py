"""A cooperative group and its members."""

import pytest

from tests.fix_engine import (
    ack,
    receive_coop,
    tick,
    value,
)

DEAD = "1 microsecond"


def register(conn, queue, member, convert=False, group="g") -> int:
    call = "select pgque.register_subconsumer(%s, %s, %s, %s)"
    return value(conn, call, queue, group, member, convert)


def unregister(conn, queue, member, batch_handling=0, group="g") -> int:
    call = "select pgque.unregister_subconsumer(%s, %s, %s, %s)"
    return value(conn, call, queue, group, member, batch_handling)


@pytest.fixture
def group(autoconn, queue) -> str:
    """The name of a group with members a, b and c."""
    for member in "abc":
        register(autoconn, queue, member)
    return "g"


def drain_coop(conn, queue, group, members, max_return=100, *, merged=False) -> list:
    """Tick, then let the members receive and ack in turn until none of them gets a message."""
    tick(conn, queue)
    messages = []
    idle = 0
    while idle < len(members):
        member = members[0]
        members = members[1:] + member
        batch = receive_coop(conn, queue, group, member, max_return, merged=merged)
        if batch:
            messages += batch
            assert ack(conn, batch) == 1
            idle = 0
        else:
            idle += 1
    return messages
