"""Typed payloads: how a handler gets a model, and how send encodes one."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, Optional
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, RootModel, field_validator

from pgque import Event, Message, PgqueInvalidArgument, PgquePayloadError, models
from pgque.consuming.handlers import Handlers
from pgque.message import encode_payload, encode_payloads
from pgque.models import decoder

AT = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
ID = UUID(int=7)


class Line(BaseModel):
    sku: str
    count: int = 1


class Order(BaseModel):
    order: int
    at: datetime = AT
    lines: list[Line] = []
    buyer: str = Field("Ada", alias="customer")

    @field_validator("order")
    @classmethod
    def positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError("not an order")
        return value


@dataclass
class Place:
    city: str
    zip: Optional[str] = None  # noqa: UP045 (both ways to write it)


@dataclass
class Parcel:
    number: int
    to: Place
    packed: datetime = AT
    id: UUID = ID


@dataclass(slots=True)
class Plain:
    order: int
    price: float = 0
    paid: bool = False
    state: Literal["new", "old"] = "new"
    note: str | None = None
    tags: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    anything: Any = None
    seen: int = field(default=0, init=False)


def message(payload: str | None) -> Message:
    return Message(7, 3, "order", payload, 0, AT)


@pytest.fixture
def without_pydantic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def forget() -> None:
        models._type_adapter.cache_clear()
        models._dataclass_adapter.cache_clear()

    monkeypatch.setitem(sys.modules, "pydantic", None)
    forget()
    yield
    forget()


# Round trips


@pytest.mark.parametrize(
    "value",
    [
        Order(order=1, lines=[Line(sku="a")], customer="Grace"),
        Parcel(1, Place("Oslo")),
        Plain(1, 2.5, True, "old", "n", ["a"], {"b": 2}, [None]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_sent_object_reaches_the_handler_unchanged(value: Any) -> None:
    assert decoder(type(value))(message(encode_payload(value))) == value


def test_models_can_be_nested_in_a_payload_and_sent_in_a_batch() -> None:
    assert encode_payload({"to": [Place("Oslo")]}) == '{"to":[{"city":"Oslo","zip":null}]}'
    assert encode_payloads([Line(sku="a"), Line(sku="b")]) == [
        '{"sku":"a","count":1}',
        '{"sku":"b","count":1}',
    ]
    assert encode_payload(RootModel[list[int]]([1])) == "[1]"


@pytest.mark.parametrize("value", [Place, Order, [Event("x")], object()])
def test_an_object_without_a_model_is_refused_as_before(value: Any) -> None:
    with pytest.raises(PgquePayloadError, match="cannot be written as JSON"):
        encode_payload(value)


def test_other_types_known_to_pydantic_are_models_too() -> None:
    assert decoder(list[Place])(message('[{"city": "Oslo"}]')) == [Place("Oslo")]


# Payloads that do not fit


@pytest.mark.parametrize(
    ("payload", "reasons"),
    [
        (None, "it is NULL"),
        ("{", "Invalid JSON: EOF .*"),
        ('{"order": "x", "lines": [{}]}', r"order: Input should .*; lines\.0\.sku: Field required"),
        ('{"order": -1}', "order: Value error, not an order"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_with_reasons(
    payload: str | None, reasons: str
) -> None:
    expected = rf"^the payload of message 7 does not fit Order: {reasons}$"
    with pytest.raises(PgquePayloadError, match=expected):
        decoder(Order)(message(payload))


def test_a_long_list_of_reasons_is_cut() -> None:
    with pytest.raises(PgquePayloadError, match=r"; and 2 more$"):
        decoder(list[int])(message('["a", "b", "c", "d", "e", "f", "g"]'))


@pytest.mark.parametrize("model", [7, object])
def test_a_type_that_cannot_be_a_model_is_refused_at_registration(model: Any) -> None:
    if model is object:
        model = type("Strange", (), {})
    with pytest.raises(PgqueInvalidArgument, match="cannot make a model"):
        decoder(model)
    with pytest.raises(PgqueInvalidArgument, match="a model is a class, not the text"):
        decoder("Order")


# Without pydantic


plain = pytest.mark.usefixtures("without_pydantic")


@plain
def test_a_dataclass_of_plain_fields_survives_a_round_trip() -> None:
    value = Plain(1, 2, tags=["a"], counts={"b": 2})
    assert decoder(Plain)(message(encode_payload(value))) == value


@plain
def test_defaults_apply_and_unknown_fields_are_ignored() -> None:
    assert decoder(Plain)(message('{"order": 1, "seen": 5, "more": 2}')) == Plain(1)


@pytest.mark.parametrize(
    ("payload", "reasons"),
    [
        ("[]", "an object is needed, not list"),
        ("{}", "order: it is missing"),
        ('{"order": true, "note": 1}', r"order: int is needed; note: str \| None is needed"),
        ('{"order": 1, "tags": [1]}', r"tags: list\[str\] is needed"),
        ('{"order": 1, "counts": {"a": "b"}}', r"counts: dict\[str, int\] is needed"),
        ('{"order": 1, "state": "lost"}', "state: .*Literal.* is needed"),
    ],
)
@plain
def test_without_pydantic_a_payload_that_does_not_fit_is_refused_with_reasons(
    payload: str, reasons: str
) -> None:
    expected = rf"^the payload of message 7 does not fit Plain: {reasons}$"
    with pytest.raises(PgquePayloadError, match=expected):
        decoder(Plain)(message(payload))


@pytest.mark.parametrize("payload", [None, "no JSON"])
@plain
def test_a_payload_that_is_not_json_is_refused(payload: str | None) -> None:
    with pytest.raises(PgquePayloadError, match="message 7"):
        decoder(Plain)(message(payload))


@plain
def test_a_field_that_needs_conversion_is_refused_at_registration() -> None:
    with pytest.raises(PgqueInvalidArgument, match=r"field to of Parcel is Place.*pip install"):
        decoder(Parcel)


@plain
def test_a_model_that_is_not_a_dataclass_is_refused_at_registration() -> None:
    with pytest.raises(PgqueInvalidArgument, match="pip install 'pydantic"):
        decoder(dict)


@plain
def test_nested_dataclasses_are_sent() -> None:
    assert encode_payload([Place("Oslo")]) == '[{"city":"Oslo","zip":null}]'


# Handlers


@pytest.mark.parametrize(
    ("function", "takes_client", "expected"),
    [
        (lambda order: (order,), False, (Place("Oslo"),)),
        (lambda order, attempts=3: (order, attempts), False, (Place("Oslo"), 3)),
        (lambda order, client: (order, client), True, (Place("Oslo"), "client")),
        (
            lambda order, client, msg: (order, client, msg),
            True,
            (Place("Oslo"), "client", message('{"city": "Oslo"}')),
        ),
    ],
)
def test_a_handler_gets_the_object_the_client_and_the_message_in_that_order(
    function: Callable[..., Any], takes_client: bool, expected: tuple[Any, ...]
) -> None:
    handlers = Handlers()
    handlers.add("parcel", function, Place)
    handler = handlers.find("parcel")
    assert handler is not None
    assert handler.takes_client is takes_client
    got = message('{"city": "Oslo"}')
    assert handler.function(got, *["client"] * takes_client) == expected


def test_the_error_about_a_wrong_handler_lists_the_valid_forms() -> None:
    with pytest.raises(
        PgqueInvalidArgument,
        match=r"\(payload\) or \(payload, client\) or \(payload, client, message\)",
    ):
        Handlers().add("parcel", lambda: None, Place)
