"""A model of the engine, and a machine that holds the engine against it."""

import pytest

pytest.register_assert_rewrite("tests.model")
