"""Payloads, events and messages.

Payloads are checked here, before anything is sent, so that a bad payload does not abort the
caller's transaction.
"""

from __future__ import annotations

import json
import json.encoder
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from pgque._base_errors import PgqueInvalidArgument, PgquePayloadError
from pgque._plain import to_plain

MAX_PAYLOAD_BYTES: Final = 255 * 1024 * 1024
"""Limit for one call, in bytes of UTF-8: for one payload, or for a whole batch together.

A PostgreSQL text holds up to 1 GiB, but a jsonb string less than a quarter of that. While the
server stores a payload, it needs several times the payload's size in memory.
"""

_SERVER_EPOCH: Final = datetime(2000, 1, 1, tzinfo=timezone.utc)
_SERVER_EPOCH_SECONDS: Final = _SERVER_EPOCH.timestamp()

# JSON escapes NUL as \u0000, which text can hold and jsonb cannot. After an odd number of further
# backslashes, the characters u0000 are ordinary text.
_ESCAPED_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Event:
    """A payload with its type, for `PgqueClient.send` instead of a payload.

    ``payload`` is any payload that `send` takes; consumers choose the handler by ``type``.
    """

    payload: Any
    type: str = "default"


def _default(value: Any) -> Any:
    if isinstance(value, Event):
        raise TypeError("an Event inside a payload")
    return to_plain(value)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default
)


class Message:
    """An event as a consumer receives it. Do not change its attributes.

    ``msg_id``      id of the event, int; the same at every delivery
    ``batch_id``    id of the batch that contains it, int; for `ack` and `nack`
    ``type``        str
    ``payload``     the stored text, unchanged; None for an SQL NULL. `json` decodes it
    ``retry_count`` number of earlier nacks, int
    ``created_at``  time of the send, an aware datetime; in UTC if the message was received
    ``extra1`` … ``extra4``  str or None; `key` is extra1 and `headers` is extra2 decoded
    """

    __slots__ = (
        "_created_at",
        "_headers",
        "_json",
        "batch_id",
        "extra1",
        "extra2",
        "extra3",
        "extra4",
        "msg_id",
        "payload",
        "retry_count",
        "type",
    )

    _created_at: datetime | int
    _headers: dict[str, Any] | None
    _json: Any

    # Runs once per received message, so it only assigns. For a received message created_at is the
    # server's integer, which is converted on first access: most handlers never read it.
    def __init__(
        self,
        msg_id: int,
        batch_id: int,
        type: str,  # noqa: A002
        payload: str | None,
        retry_count: int,
        created_at: datetime,
        extra1: str | None = None,
        extra2: str | None = None,
        extra3: str | None = None,
        extra4: str | None = None,
    ) -> None:
        self.msg_id = msg_id
        self.batch_id = batch_id
        self.type = type
        self.payload = payload
        self.retry_count = retry_count
        self._created_at = created_at
        self.extra1 = extra1
        self.extra2 = extra2
        self.extra3 = extra3
        self.extra4 = extra4

    @property
    def created_at(self) -> datetime:
        """Time of the send, an aware datetime; in UTC if the message was received."""
        found = self._created_at
        if isinstance(found, int):
            found = self._created_at = _to_datetime(found)
        return found

    def json(self) -> Any:
        """Return the payload decoded from JSON; None if it is NULL.

        The first call decodes it; later calls return the same object. Raises `PgquePayloadError` (a
        ValueError) if the payload is not JSON.
        """
        if not hasattr(self, "_json"):
            self._json = _decode(self.payload, f"the payload of message {self.msg_id}")
        return self._json

    @property
    def key(self) -> str | None:
        """The ``key`` passed to `send`: `extra1`."""
        return self.extra1

    @property
    def headers(self) -> dict[str, Any] | None:
        """The ``headers`` passed to `send`: `extra2`, decoded at the first access.

        Raises `PgquePayloadError` if `extra2` is not a JSON object.
        """
        if not hasattr(self, "_headers"):
            what = f"extra2 of message {self.msg_id}"
            found = _decode(self.extra2, what)
            if found is not None and not isinstance(found, dict):
                raise PgquePayloadError(f"{what} is not a JSON object")
            self._headers = found
        return self._headers

    def _fields(self) -> tuple[Any, ...]:
        return (
            self.msg_id,
            self.batch_id,
            self.type,
            self.payload,
            self.retry_count,
            self.created_at,
            self.extra1,
            self.extra2,
            self.extra3,
            self.extra4,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((self.batch_id, self.msg_id))

    def __repr__(self) -> str:
        payload = self.payload
        if payload is not None and len(payload) > 60:
            payload = payload[:57] + "..."
        return (
            f"Message(msg_id={self.msg_id}, batch_id={self.batch_id}, type={self.type!r}, "
            f"payload={payload!r}, retry_count={self.retry_count})"
        )


def sent_at(message: Message) -> float:
    """Return the time of a message's send in seconds since 1970; cheaper than `created_at`."""
    moment = message._created_at
    if isinstance(moment, int):
        return moment / 1e6 + _SERVER_EPOCH_SECONDS
    return moment.timestamp()


def _to_datetime(microseconds: int) -> datetime:
    """Convert PostgreSQL's binary timestamp, microseconds since 2000, to a datetime.

    Infinities, and years that Python does not support, become `datetime.min` or `datetime.max`.
    """
    try:
        return _SERVER_EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        moment = datetime.min if microseconds < 0 else datetime.max
        return moment.replace(tzinfo=timezone.utc)


def encode_payload(payload: Any) -> str:
    """Return the text to store for a payload: a str unchanged, anything else as compact JSON.

    None becomes ``null``. `json` converts the keys of dicts. Pydantic models and dataclasses become
    objects, at any depth. Raises `PgquePayloadError` for NUL, lone surrogates, NaN and infinities,
    for values that JSON cannot represent, and for more than `MAX_PAYLOAD_BYTES`.
    """
    text, size = _encode(payload, "the payload")
    _check_size(size)
    return text


def encode_payloads(payloads: Iterable[Any]) -> list[str]:
    """Return the texts to store for a batch, see `encode_payload`. The limit is for their sum."""
    if isinstance(payloads, (str, bytes, Mapping, Event)) or not isinstance(payloads, Iterable):
        raise PgqueInvalidArgument(
            f"payloads must be a list of payloads, not {type(payloads).__name__}; "
            "send() takes a single one"
        )
    if isinstance(payloads, (list, tuple)):
        quick = _encode_quickly(payloads)
        if quick is not None:
            return quick
    texts = []
    total = 0
    for number, payload in enumerate(payloads):
        text, size = _encode(payload, f"payload {number}")
        total += size
        _check_size(total)
        texts.append(text)
    return texts


def encode_key(key: str | None) -> str | None:
    """Return a key unchanged, after checking that PostgreSQL can store it."""
    if key is None:
        return None
    if not isinstance(key, str):
        raise PgqueInvalidArgument(f"key must be a str, not {type(key).__name__}")
    text, size = _encode(key, "the key")
    _check_size(size)
    return text


def encode_headers(headers: Mapping[str, Any] | None) -> str | None:
    """Return headers as a JSON object."""
    if headers is None:
        return None
    if not isinstance(headers, Mapping):
        raise PgqueInvalidArgument(f"headers must be a mapping, not {type(headers).__name__}")
    text, size = _encode(dict(headers), "headers")
    _check_size(size)
    return text


def _encode_quickly(payloads: Sequence[Any]) -> list[str] | None:
    """Return the texts of a batch, checked together; None if one of them may be wrong.

    The caller then checks them one by one, to name the faulty payload.
    """
    kinds = set(map(type, payloads))
    if kinds == {str}:
        texts = list(payloads)
    elif any(issubclass(kind, str) for kind in kinds - {str}):
        return None
    else:
        try:
            write = _json_writer()
            texts = [value if type(value) is str else write(value) for value in payloads]
        except (TypeError, ValueError, RecursionError):
            return None
    together = "".join(texts)
    if "\0" in together or (kinds != {str} and "\\u0000" in together):
        return None
    try:
        size = len(together) if together.isascii() else len(together.encode())
    except UnicodeEncodeError:
        return None
    return texts if size <= MAX_PAYLOAD_BYTES else None


def _json_writer() -> Callable[[Any], str]:
    """Return a function that encodes values like `_ENCODER.encode`, but faster.

    `encode` creates a new C encoder for each value, which takes longer than encoding a small dict.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # only CPython has it
        return _ENCODER.encode
    quote = json.encoder.encode_basestring
    write = make({}, _ENCODER.default, quote, None, ":", ",", False, False, False)
    return lambda value: "".join(write(value, 0))


def _encode(value: Any, what: str) -> tuple[str, int]:
    """Return the text of a value and its size in bytes."""
    if type(value) is str:
        text = value
    elif isinstance(value, str):
        # A subclass may be an Enum, which psycopg would dump differently.
        text = str.__str__(value)
    else:
        text = _encode_json(value, what)
    if "\0" in text:
        raise PgquePayloadError(f"{what} contains a NUL character, which PostgreSQL cannot store")
    if text.isascii():
        return text, len(text)
    try:
        return text, len(text.encode())
    except UnicodeEncodeError as error:
        raise PgquePayloadError(
            f"{what} contains a lone surrogate at position {error.start}: it is not valid Unicode"
        ) from error


def _encode_json(value: Any, what: str) -> str:
    if isinstance(value, Event):
        raise PgquePayloadError(
            f"{what} is an Event: only send() takes Events, send_batch() does not"
        )
    try:
        text = _ENCODER.encode(value)
    except RecursionError as error:
        raise PgquePayloadError(f"{what} is nested too deeply for JSON") from error
    except (TypeError, ValueError) as error:
        raise PgquePayloadError(
            f"{what} cannot be written as JSON: {error}. "
            "Convert it first, or send a str, which is stored unchanged"
        ) from error
    if "\\u0000" in text and _ESCAPED_NUL.search(text):
        raise PgquePayloadError(f"{what} contains a NUL character, which PostgreSQL cannot store")
    return text


def _check_size(size: int) -> None:
    if size > MAX_PAYLOAD_BYTES:
        raise PgquePayloadError(
            f"too much for one call: {size} bytes, the limit is {MAX_PAYLOAD_BYTES}. "
            "Split a batch into smaller ones; store a large object elsewhere and send its location"
        )


def _decode(text: str | None, what: str) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except RecursionError as error:
        raise PgquePayloadError(f"{what} is nested too deeply to be decoded") from error
    except json.JSONDecodeError as error:
        raise PgquePayloadError(f"{what} is not JSON: {error}") from error
    except ValueError as error:  # a number with more digits than Python reads
        raise PgquePayloadError(f"{what} cannot be decoded: {error}") from error
