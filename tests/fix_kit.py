"""The test kit of pgque.testing on the test's database, with a queue and a consumer."""

import pytest

from pgque.testing import Kit


@pytest.fixture
def kit(dsn):
    with Kit(dsn) as kit:
        kit.queue("orders", "shipping")
        yield kit
