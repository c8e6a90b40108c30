"""Capture triggers write rows of any text correctly, however the session reads literals."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fix_capture import Capture
from tests.fix_engine import LONG
from tests.fuzz.values import HUGE, any_text
from tests.fuzz.values import ODD_TEXTS as SOME_TEXTS

EXAMPLES = 300 if LONG else 40

texts = st.one_of(
    st.text("\\\\'\"\\n\\t%&=+ ab\u20ac", max_size=12),
    st.sampled_from([text for text in SOME_TEXTS if text != ""]),
    any_text,
    st.just(HUGE),
    st.none(),
)


@pytest.fixture(params=["on", "off"])
def table(capture: Capture, request: pytest.FixtureRequest) -> Capture:
    """Return a table with a trigger of each encoding, for each way to read literals.

    The session has the setting from its start, because a function keeps its parsed body.
    """
    capture.run(f"set standard_conforming_strings = {request.param}")
    capture.run("set escape_string_warning = off")
    capture.run("create table public.captured (id int primary key, said text)")
    capture.attach_all("public.captured")
    capture.conn.commit()
    return capture


@settings(
    max_examples=EXAMPLES,
    database=None,
    derandomize=not LONG,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(text=texts)
def test_a_row_arrives_as_it_was_written(table: Capture, text: str | None) -> None:
    table.run("delete from public.captured")
    table.events()
    table.conn.execute("insert into public.captured values (1, %s)", [text])
    as_json, as_url, as_sql = table.events()
    assert as_json.row == {"id": 1, "said": text}
    fields = dict(parse_qsl(as_url.data, keep_blank_values=True))
    assert fields == {"id": "1", "said": text or ""}
    # The captured SQL restores the row, however the session that runs it reads literals.
    own = table.run("show standard_conforming_strings").fetchone()
    for setting in ("on", "off"):
        table.run("delete from public.captured")
        table.events()
        table.run(f"set standard_conforming_strings = {setting}")
        table.run(f"insert into public.captured {as_sql.data}")
        table.run(f"set standard_conforming_strings = {own[0] if own else 'on'}")
        found = table.run("select said from public.captured").fetchone()
        assert found == (text,), f"restored with standard_conforming_strings {setting}"
        table.events()
