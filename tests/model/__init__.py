"""A model of the engine, and a machine that holds the engine against it."""

import pytest

# What an assertion compared is said there too, and not in tests alone.
pytest.register_assert_rewrite(
    *(
        f"tests.model.{module}"
        for module in (
            "base",
            "broken",
            "consuming",
            "finishing",
            "machine",
            "model",
            "producing",
            "sharing",
            "ticking",
            "upsetting",
        )
    )
)
