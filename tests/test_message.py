"""Payloads, events and messages: everything that needs no server."""

import copy
import enum
import json
import pickle
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgque import Event, Message, PgqueInvalidArgument, PgquePayloadError
from pgque import message as room
from pgque.message import encode_headers, encode_key, encode_payload, encode_payloads

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)

storable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable,
    lambda inner: st.lists(inner) | st.dictionaries(storable, inner),
    max_leaves=20,
)


def message(payload: str | None = "{}", **others: Any) -> Message:
    return Message(7, 3, "default", payload, 0, NOW, **others)


@given(storable)
def test_a_str_is_sent_unchanged(text: str) -> None:
    assert encode_payload(text) == text


@given(json_values)
def test_json_survives_a_round_trip(value: Any) -> None:
    if isinstance(value, str):
        value = [value]
    assert message(encode_payload(value)).json() == value


@given(st.text())
def test_every_text_is_either_refused_or_can_be_stored(text: str) -> None:
    for payload in (text, [text], {text: 1}):
        try:
            encoded = encode_payload(payload)
        except PgquePayloadError:
            assert "\0" in text or any("\ud800" <= c <= "\udfff" for c in text)
        else:
            assert "\0" not in encoded
            encoded.encode()


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (None, "null"),
        (True, "true"),
        (5, "5"),
        ({"a": [1, "é"]}, '{"a":[1,"é"]}'),
        ((1, 2), "[1,2]"),
        ({1: 2, None: 3, False: 4, 1.5: 5}, '{"1":2,"null":3,"false":4,"1.5":5}'),
    ],
)
def test_other_payloads_are_sent_as_json(payload: Any, text: str) -> None:
    assert encode_payload(payload) == text


def test_a_subclass_of_str_is_sent_by_its_value() -> None:
    class Color(str, enum.Enum):
        RED = "red"

    encoded = encode_payload(Color.RED)
    assert encoded == "red"
    assert type(encoded) is str


class Unknown:
    pass


circle: list[Any] = []
circle.append(circle)

deep: list[Any] = []
for _ in range(200_000):
    deep = [deep]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("a\0b", "NUL"),
        (["a\0b"], "NUL"),
        ({"a\0b": 1}, "NUL"),
        ("a\ud800", "surrogate"),
        ({"a": "\udfff"}, "surrogate"),
        (float("nan"), "JSON"),
        ([float("inf")], "JSON"),
        ({float("nan"): 1}, "JSON"),
        (Unknown(), "Unknown"),
        (b"bytes", "bytes"),
        (NOW, "datetime"),
        (Decimal(1), "Decimal"),
        ({(1, 2): 3}, "keys"),
        ({1, 2}, "set"),
        (10**5000, "digits"),
        (circle, "Circular"),
        (deep, "deep"),
        ([Event("x")], "JSON|Event"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else ascii(value),
)
def test_payloads_that_cannot_be_stored_are_refused(payload: Any, reason: str) -> None:
    with pytest.raises(PgquePayloadError, match=reason) as caught:
        encode_payload(payload)
    assert isinstance(caught.value, ValueError)


def test_an_escaped_text_that_only_resembles_nul_is_sent() -> None:
    assert json.loads(encode_payload(["\\u0000"])) == ["\\u0000"]
    assert encode_payload('"\\u0000"') == '"\\u0000"'
    with pytest.raises(PgquePayloadError, match="NUL"):
        encode_payload(["\\\0"])


def test_the_size_limit_counts_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_PAYLOAD_BYTES", 4)
    assert encode_payload("éé") == "éé"
    for payload in ("abcde", "ééé", 12345):
        with pytest.raises(PgquePayloadError, match=r"bytes, the limit is 4\."):
            encode_payload(payload)


def test_a_payload_of_300_megabytes_is_refused() -> None:
    with pytest.raises(PgquePayloadError, match="314572800 bytes"):
        encode_payload("x" * 300 * 1024 * 1024)


def test_the_limit_applies_to_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_PAYLOAD_BYTES", 4)
    assert encode_payloads(iter(["ab", 12])) == ["ab", "12"]
    with pytest.raises(PgquePayloadError, match="smaller parts"):
        encode_payloads(["ab", "cd", "e"])


def test_the_error_names_the_wrong_payload_of_a_batch() -> None:
    with pytest.raises(PgquePayloadError, match="payload 1 contains a NUL"):
        encode_payloads(["a", "\0"])
    with pytest.raises(PgquePayloadError, match="payload 0 is an Event"):
        encode_payloads([Event("a")])


class Text(str):
    def __str__(self) -> str:
        return "no"


@given(st.lists(json_values | st.text()))
def test_a_batch_is_encoded_like_its_single_payloads(payloads: list[Any]) -> None:
    try:
        texts = [encode_payload(payload) for payload in payloads]
    except PgquePayloadError:
        for bad in (payloads, tuple(payloads), iter(payloads)):
            with pytest.raises(PgquePayloadError):
                encode_payloads(bad)
    else:
        assert encode_payloads(payloads) == texts
        assert encode_payloads(tuple(payloads)) == texts
        assert encode_payloads(iter(payloads)) == texts


@pytest.mark.parametrize(
    "payloads",
    [
        ["\\u00", "00"],
        ["a", "\\u0000", {"a": "\\\\u0000"}],
        [Text("yes"), "x"],
        [Text("yes"), {"a": 1}],
        [{}, (), [], None, True, 1.5, 10**30, -0.0, {"é": ["\u2028"]}],
        [],
    ],
)
def test_corner_cases_in_a_batch_are_encoded_like_single_payloads(payloads: list[Any]) -> None:
    texts = encode_payloads(payloads)
    assert texts == [encode_payload(payload) for payload in payloads]
    assert {type(text) for text in texts} <= {str}


def test_a_batch_is_encoded_without_the_c_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    assert encode_payloads([{"a": [1]}, "b"]) == ['{"a":[1]}', "b"]


@pytest.mark.parametrize("payload", [circle, deep, float("nan"), {"a": float("inf")}, Unknown()])
def test_a_batch_refuses_the_payloads_that_a_single_send_refuses(payload: Any) -> None:
    with pytest.raises(PgquePayloadError, match="payload 1 "):
        encode_payloads([{"a": 1}, payload])


@pytest.mark.parametrize("payloads", [None, "text", b"bytes", {"a": 1}, 5, Event([])])
def test_a_batch_must_be_a_list(payloads: Any) -> None:
    with pytest.raises(PgqueInvalidArgument, match="list of payloads"):
        encode_payloads(payloads)


def test_key_and_headers_are_encoded() -> None:
    assert encode_key(None) is None
    assert encode_key("k") == "k"
    assert encode_headers(None) is None
    assert encode_headers({"a": 1}) == '{"a":1}'
    for bad in ("a\0", "\ud800"):
        with pytest.raises(PgquePayloadError, match="the key"):
            encode_key(bad)
        with pytest.raises(PgquePayloadError, match="headers"):
            encode_headers({"a": bad})
    with pytest.raises(PgqueInvalidArgument, match="key must be a str"):
        encode_key(5)  # type: ignore[arg-type]
    with pytest.raises(PgqueInvalidArgument, match="headers must be a mapping"):
        encode_headers([1])  # type: ignore[arg-type]


def test_json_is_decoded_once() -> None:
    received = message('{"a": 1}')
    assert received.json() is received.json()


def test_json_null_is_none() -> None:
    assert message(None).json() is None


@pytest.mark.parametrize("payload", ["", "not json", "[" * 200_000])
def test_the_error_names_the_message_that_is_not_json(payload: str) -> None:
    with pytest.raises(PgquePayloadError, match="message 7") as caught:
        message(payload).json()
    assert isinstance(caught.value, ValueError)


def test_a_message_decodes_key_and_headers() -> None:
    received = message(extra1="k", extra2='{"a": 1}')
    assert received.key == "k"
    assert received.headers == {"a": 1}
    assert received.headers is received.headers
    assert message().key is None
    assert message().headers is None
    for text in ("a=1", "[1]"):
        with pytest.raises(PgquePayloadError, match="extra2 of message 7"):
            _ = message(extra2=text).headers


def test_messages_compare_hash_and_pickle_as_values() -> None:
    received = message(extra3="x")
    assert received == message(extra3="x")
    assert received != message(extra3="y")
    assert received != "message"
    assert len({received, message(extra3="x")}) == 1
    received.json()
    assert pickle.loads(pickle.dumps(received)) == received
    assert copy.deepcopy(received) == received
    assert not hasattr(received, "__dict__")


def test_created_at_is_computed_from_the_servers_number_on_first_access() -> None:
    received = Message(7, 3, "default", "{}", 0, 820_540_800_000_001)  # type: ignore[arg-type]
    at = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=1)
    assert received == Message(7, 3, "default", "{}", 0, at)
    assert received.created_at == at
    assert received.created_at.tzinfo is timezone.utc
    assert received.created_at is received.created_at
    assert pickle.loads(pickle.dumps(received)).created_at == at


def test_created_at_is_returned_as_given() -> None:
    assert message().created_at is NOW


@pytest.mark.parametrize(
    ("microseconds", "moment"),
    [
        (-(2**63), datetime.min),
        (2**63 - 1, datetime.max),
        (300_000_000_000_000_000, datetime.max),
        (-1, datetime(1999, 12, 31, 23, 59, 59, 999_999)),
    ],
)
def test_created_at_beyond_pythons_range_is_clamped(microseconds: int, moment: datetime) -> None:
    received = Message(7, 3, "default", "{}", 0, microseconds)  # type: ignore[arg-type]
    assert received.created_at == moment.replace(tzinfo=timezone.utc)


def test_repr_is_short() -> None:
    assert repr(message("p")) == (
        "Message(msg_id=7, batch_id=3, type='default', payload='p', retry_count=0)"
    )
    assert len(repr(message("p" * 1000))) < 200


def test_an_event_is_an_immutable_value() -> None:
    assert Event("a") == Event("a", "default")
    with pytest.raises(AttributeError):
        Event("a").type = "b"  # type: ignore[misc]
