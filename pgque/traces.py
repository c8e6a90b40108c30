"""Traces with OpenTelemetry (extra ``traces``), in programs that use it themselves.

A send within a span is a span of its own, ``send <queue>``, and its W3C trace context goes along
with the event, in ``extra2`` beside the application's headers. A `Consumer` goes on from there: it
makes a span ``process <queue>`` for each message, a child of the send's. A message that comes back
begins a trace of its own, with a link to the send.

A program that has not imported OpenTelemetry has no span to go on from, so nothing is imported or
written in it. Names and attributes are OpenTelemetry's conventions for messaging.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pgque._extras import need
from pgque.observers import Batch, Observer
from pgque.wire.failures import describe, is_loggable

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from pgque.message import Message

SYSTEM: Final = "pgque"
CONTEXT_HEADERS: Final = ("traceparent", "tracestate")


def tracing() -> bool:
    """Tell whether what is done now belongs to a trace: there is a span to go on from."""
    api: Any = sys.modules.get("opentelemetry.trace")
    # While another thread imports it, it is there without its functions.
    current = getattr(api, "get_current_span", None)
    return current is not None and bool(current().get_span_context().is_valid)


class Sending:
    """A send that is under way, as a span."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def add_context(self, headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the headers with the span's context; as they are where they have a context."""
        if headers is None:
            headers = {}
        if not isinstance(headers, Mapping) or any(name in headers for name in CONTEXT_HEADERS):
            return headers
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context: dict[str, str] = {}
        within = trace.set_span_in_context(self._span)
        TraceContextTextMapPropagator().inject(context, within)
        return {**headers, **context}

    def sent(self, event_id: int) -> None:
        """Say which event it became."""
        self._span.set_attribute("messaging.message.id", str(event_id))


@contextmanager
def sending(queue: str, count: int | None = None) -> Iterator[Sending]:
    """Make the block a span ``send <queue>``; what it raises is in the span.

    :param count: how many events are sent; None for one that is no batch.
    """
    from opentelemetry.trace import SpanKind

    attributes = _attributes(queue, "send")
    if count is not None:
        attributes["messaging.batch.message_count"] = count
    with _tracer().start_as_current_span(
        f"send {queue}", kind=SpanKind.PRODUCER, attributes=attributes
    ) as span:
        try:
            yield Sending(span)
        except Exception as error:
            span.set_attribute("error.type", _name(error))
            raise


def observers_of_traces() -> list[Observer]:
    """Return what a consumer needs for traces: nothing where no tracer provider is set."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return []
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return []
    return [Traces()]


class Traces(Observer):
    """Makes a span of each message. A `Consumer` has one of its own where traces are in use."""

    def __init__(self) -> None:
        need("opentelemetry.trace")
        self._here = _Open()

    def on_handling(self, batch: Batch, message: Message, delay: float) -> None:
        """Begin the message's span and make it the current one."""
        from opentelemetry import context, trace

        attributes = _attributes(batch.queue, "process")
        attributes["messaging.consumer.group.name"] = batch.consumer
        attributes["messaging.message.id"] = str(message.msg_id)
        attributes["messaging.pgque.message.type"] = message.type
        attributes["messaging.pgque.message.delivery_attempt"] = message.retry_count + 1
        if batch.subconsumer is not None:
            attributes["messaging.client.id"] = batch.subconsumer
        origin = _origin(message)
        sent_in = trace.get_current_span(origin).get_span_context()
        links = []
        if message.retry_count > 0:
            origin = context.Context()
            links = [trace.Link(sent_in)] if sent_in.is_valid else []
        span = _tracer().start_span(
            f"process {batch.queue}",
            context=origin,
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
        )
        token = context.attach(trace.set_span_in_context(span))
        self._here.spans.append((span, token))

    def on_handled(
        self, batch: Batch, message: Message, seconds: float, error: BaseException | None
    ) -> None:
        """End the message's span."""
        from opentelemetry import context
        from opentelemetry.trace import Status, StatusCode

        span, token = self._here.spans.pop()
        context.detach(token)
        if error is not None:
            if is_loggable(error):
                span.record_exception(error)
            span.set_attribute("error.type", _name(error))
            span.set_status(Status(StatusCode.ERROR, describe(error)))
        span.end()


class _Open(threading.local):
    """The spans that are open in a thread: one, unless a handler runs a consumer itself."""

    def __init__(self) -> None:
        self.spans: list[tuple[Span, Token[Context]]] = []


def _attributes(queue: str, operation: str) -> dict[str, AttributeValue]:
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


def _origin(message: Message) -> Context:
    """Return the context that came with a message, an empty one where none did."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    text = message.extra2
    if text is None or "traceparent" not in text:
        return Context()
    # Not by `headers`: what a trigger or another language wrote here need not be an object.
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        return Context()
    if not isinstance(headers, dict):
        return Context()
    found = {n: headers[n] for n in CONTEXT_HEADERS if isinstance(headers.get(n), str)}
    return TraceContextTextMapPropagator().extract(found, Context())


def _tracer() -> Tracer:
    from opentelemetry import trace

    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    """Return our tracer: making one costs more than a span."""
    return provider.get_tracer("pgque")


def _name(error: BaseException) -> str:
    module, name = type(error).__module__, type(error).__qualname__
    return name if module == "builtins" else f"{module}.{name}"
