"""Frames: the part of a snapshot that a page shows, for all queues or for one."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any, Final

from pgque.dashboard.history import Key
from pgque.dashboard.snapshot import Snapshot, Subscriber
from pgque.watching.live import ConsumerFigures, QueueFigures
from pgque.watching.states import of_consumer, of_queue

Frame = dict[str, Any]

SLOWEST_SHOWN: Final = 10


def overview(snapshot: Snapshot) -> Frame:
    """Return the overview. Each queue is a list without keys: there may be thousands."""
    by_queue: dict[str, list[tuple[ConsumerFigures, Subscriber]]] = {}
    for figures, known in snapshot.consumers():
        by_queue.setdefault(figures.queue, []).append((figures, known))
    queues = [_queue(queue, by_queue.get(queue.queue, [])) for queue in snapshot.sample.queues]
    behind = [
        pair
        for pair in snapshot.consumers()
        if pair[1].group is None and (pair[0].pending or pair[0].state != "ok")
    ]
    behind.sort(key=lambda pair: pair[0].lag, reverse=True)
    return {
        **_head(snapshot),
        "totals": {
            "queues": len(queues),
            "consumers": sum(known.group is None for _, known in snapshot.consumers()),
            "in_flight": sum(queue["in_flight"] for queue in queues),
            "retries": sum(queue["retries"] for queue in queues),
            "dead": sum(queue["dead"] for queue in queues),
            "late": sum(queue.state == "no tick" for queue in snapshot.sample.queues),
        },
        "columns": list(queues[0]) if queues else [],
        "queues": [list(queue.values()) for queue in queues],
        "slowest": [_consumer(*pair) for pair in behind[:SLOWEST_SHOWN]],
        "points": _by_plot(key_points(snapshot, None)),
    }


def one_queue(snapshot: Snapshot, name: str) -> Frame:
    """Return the page of a queue. Its ``queue`` is None if the queue does not exist."""
    found = [queue for queue in snapshot.sample.queues if queue.queue == name]
    consumers = list(snapshot.consumers(name))
    return {
        **_head(snapshot),
        "queue": _queue(found[0], consumers) if found else None,
        "consumers": [_consumer(*pair) for pair in consumers],
        "points": _by_plot(key_points(snapshot, name)),
    }


def all_points(snapshot: Snapshot) -> dict[Key, float | None]:
    """Return the points of all lines of all plots."""
    points = dict(key_points(snapshot, None))
    for queue in snapshot.sample.queues:
        points[Key(queue.queue, "rate", "")] = queue.rate
    for figures, known in snapshot.consumers():
        points.update(_points_of(figures, known))
    return points


def key_points(snapshot: Snapshot, name: str | None) -> Iterator[tuple[Key, float | None]]:
    """Yield the points of one queue, or of the overview if ``name`` is None."""
    if name is not None:
        for queue in snapshot.sample.queues:
            if queue.queue == name:
                yield Key(name, "rate", ""), queue.rate
        for figures, known in snapshot.consumers(name):
            yield from _points_of(figures, known)
        return
    sent = [queue.rate for queue in snapshot.sample.queues if queue.rate is not None]
    positions = [pair for pair in snapshot.consumers() if pair[1].group is None]
    done = [figures.rate for figures, _ in positions if figures.rate is not None]
    latest = [known.latency for _, known in positions if known.fresh and known.latency is not None]
    yield Key(None, "rate", ""), sum(sent) if sent else None
    yield Key(None, "rate", "handled"), sum(done) if done else None
    yield Key(None, "lag", "longest"), max((figures.lag for figures, _ in positions), default=None)
    yield Key(None, "latency", "longest"), max(latest, default=None)


def _points_of(figures: ConsumerFigures, known: Subscriber) -> Iterator[tuple[Key, float | None]]:
    if known.group is None:
        yield Key(figures.queue, "rate", figures.consumer), figures.rate
        yield Key(figures.queue, "lag", figures.consumer), figures.lag
        latency = known.latency if known.fresh and not known.is_group else None
        yield Key(figures.queue, "latency", figures.consumer), latency


def _by_plot(points: Iterator[tuple[Key, float | None]]) -> dict[str, dict[str, float | None]]:
    plots: dict[str, dict[str, float | None]] = {"rate": {}, "lag": {}, "latency": {}}
    for key, value in points:
        plots[key.plot][key.name] = _rounded(value)
    return plots


def _head(snapshot: Snapshot) -> Frame:
    return {"at": snapshot.sample.at, "ticking": snapshot.sample.ticking}


def _queue(queue: QueueFigures, consumers: list[tuple[ConsumerFigures, Subscriber]]) -> Frame:
    positions = [figures for figures, known in consumers if known.group is None]
    state = of_queue(queue.state, [of_consumer(figures.state) for figures, _ in consumers])
    return {
        "queue": queue.queue,
        "state": state.word,
        "level": state.level,
        "rate": _rounded(queue.rate),
        "sent": queue.sent,
        "unticked": queue.unticked,
        "tick_age": _rounded(queue.tick_age),
        "paused": queue.paused,
        "consumers": len(positions),
        "pending": max((figures.pending for figures in positions), default=0),
        "lag": _rounded(max((figures.lag for figures in positions), default=0.0)),
        "in_flight": sum(known.in_flight or 0 for _, known in consumers),
        "retries": queue.retries,
        "dead": queue.dead,
    }


def _consumer(figures: ConsumerFigures, known: Subscriber) -> Frame:
    has_position = known.group is None
    state = of_consumer(figures.state)
    return {
        "queue": figures.queue,
        "consumer": figures.consumer,
        "group": known.group,
        "is_group": known.is_group,
        "state": state.word,
        "level": state.level,
        "rate": _rounded(figures.rate) if has_position else None,
        "pending": figures.pending if has_position else None,
        "lag": _rounded(figures.lag) if has_position else None,
        "in_flight": known.in_flight,
        "latency": _rounded(known.latency) if has_position and not known.is_group else None,
        "last_seen": _rounded(figures.last_seen),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else round(value, 4)
