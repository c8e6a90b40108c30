"""A model of the engine, and a state machine that checks the engine against it."""

import pytest

# Let assertions in these modules show the compared values, as in test modules.
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
