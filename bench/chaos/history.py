"""The history of a run and its violations. This module uses no database and no clock.

A producer knows the outcome of its transaction as sent, failed or unknown. The outcome is unknown
if the connection or the process died during the commit. An effect is a row that a handler wrote and
committed together with the ack. An attempt is one call of a handler, successful or not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, NamedTuple

Outcome = Literal["sent", "failed", "unknown"]

VIOLATIONS: Final = {
    "lost": "sent and never delivered",
    "ghost": "delivered although its transaction failed or rolled back",
    "twice": "handled and committed twice",
    "again": "delivered again after its ack",
    "torn": "a transaction delivered in part, or to only some consumers",
    "order": "delivered out of order",
    "dead": "a dead letter that is wrong, missing, or took the wrong number of attempts",
    "kept": "an effect kept although its message became a dead letter",
    "text": "a dead letter whose reason is too long",
    "loop": "a message retried in a loop without a growing pause",
    "stalled": "no tick although events were sent",
    "copy": "a restored dump that lost or repeated events, unreported by the doctor",
}
"""The kinds of violation, with a description of each."""
LONGEST_REASON: Final = 100_000
"""Most characters in a dead letter's reason."""
LOOP_SECONDS: Final = 5.0
LOOP_ATTEMPTS: Final = 40
"""Pauses that double from 0.1 seconds allow a dozen attempts in five seconds, and each new fault
restarts them. A loop without a pause makes hundreds."""


@dataclass
class Transaction:
    """The events of one producer's transaction, in order of sending, and its outcome."""

    name: str
    keys: Sequence[str]
    undone: Sequence[str]
    poison: Sequence[str]
    outcome: Outcome
    at: float = 0.0


class Effect(NamedTuple):
    """A row that a handler wrote, committed with its batch. ``number`` is the order of writing."""

    number: int
    consumer: str
    batch: int
    message: int
    retry: int
    key: str
    at: float = 0.0


class Attempt(NamedTuple):
    """A call of a handler."""

    consumer: str
    batch: int
    message: int
    retry: int
    key: str
    at: float = 0.0


class Dead(NamedTuple):
    """A dead letter, with the number of characters of its reason."""

    consumer: str
    key: str
    reason: int = 0


@dataclass
class History:
    """Everything recorded about a run."""

    consumers: Sequence[str]
    transactions: Sequence[Transaction]
    effects: Sequence[Effect]
    attempts: Sequence[Attempt] = ()
    dead: Sequence[Dead] = ()
    groups: Sequence[str] = ()
    """Consumers whose members work in parallel, so their batches have no order."""
    max_retries: int | None = None
    """How often a message is retried before it becomes a dead letter; None skips this check."""


@dataclass
class Findings:
    """The violations by kind; an empty list if there are none."""

    by_kind: dict[str, list[str]] = field(default_factory=lambda: {k: [] for k in VIOLATIONS})

    def add(self, kind: str, text: str) -> None:
        """Add one violation."""
        self.by_kind[kind].append(text)

    @property
    def count(self) -> int:
        """The number of violations."""
        return sum(map(len, self.by_kind.values()))


def check(history: History) -> Findings:
    """Compare the sent events with those that each consumer handled."""
    findings = Findings()
    arrived = _arrived(history)
    _look_for_lost(history, arrived, findings)
    _look_for_ghosts(history, findings)
    _look_for_twice(history, findings)
    _look_for_again(history, findings)
    _look_for_torn(history, arrived, findings)
    _look_for_order(history, findings)
    _look_at_dead(history, findings)
    _look_at_attempts(history, findings)
    _look_for_loops(history, findings)
    return findings


def _arrived(history: History) -> Mapping[str, set[str]]:
    """Return for each consumer the keys that it handled or that became dead letters."""
    arrived: dict[str, set[str]] = {name: set() for name in history.consumers}
    for effect in history.effects:
        arrived[effect.consumer].add(effect.key)
    for letter in history.dead:
        arrived[letter.consumer].add(letter.key)
    return arrived


def _look_for_lost(history: History, arrived: Mapping[str, set[str]], findings: Findings) -> None:
    for transaction in history.transactions:
        if transaction.outcome == "sent":
            for consumer, keys in arrived.items():
                for key in transaction.keys:
                    if key not in keys:
                        findings.add("lost", f"{key} at {consumer}")


def _look_for_ghosts(history: History, findings: Findings) -> None:
    possible: set[str] = set()
    for transaction in history.transactions:
        if transaction.outcome != "failed":
            possible.update(transaction.keys)
    seen: dict[tuple[str, str], None] = {}
    for items in (history.effects, history.attempts, history.dead):
        assert isinstance(items, Sequence)
        for item in items:
            if item.key not in possible:
                seen[item.key, item.consumer] = None
    for key, consumer in seen:
        findings.add("ghost", f"{key} at {consumer}")


def _look_for_twice(history: History, findings: Findings) -> None:
    times = Counter((effect.consumer, effect.key) for effect in history.effects)
    for (consumer, key), count in times.items():
        if count > 1:
            findings.add("twice", f"{key} at {consumer}, {count} times")


def _look_for_again(history: History, findings: Findings) -> None:
    """Find deliveries in a batch opened after the acked one. A zombie's batch is older."""
    done = {(effect.consumer, effect.key): effect.batch for effect in history.effects}
    for attempt in history.attempts:
        batch = done.get((attempt.consumer, attempt.key))
        if batch is not None and attempt.batch > batch:
            findings.add(
                "again",
                f"{attempt.key} at {attempt.consumer}, in batch {attempt.batch}, acked in {batch}",
            )


def _look_for_torn(history: History, arrived: Mapping[str, set[str]], findings: Findings) -> None:
    for transaction in history.transactions:
        if transaction.outcome == "unknown":
            there = [key in keys for keys in arrived.values() for key in transaction.keys]
            if any(there) and not all(there):
                findings.add("torn", f"{transaction.name}: {sum(there)} of {len(there)}")


def _look_for_order(history: History, findings: Findings) -> None:
    batches: dict[tuple[str, int], list[Effect]] = defaultdict(list)
    for effect in sorted(history.effects):
        batches[effect.consumer, effect.batch].append(effect)
    for (consumer, batch), effects in batches.items():
        for before, after in pairwise(effects):
            if after.message <= before.message:
                findings.add("order", f"{after.key} in batch {batch} of {consumer}")
    for consumer in history.consumers:
        first = {
            effect.key: effect
            for effect in history.effects
            if effect.consumer == consumer and effect.retry == 0
        }
        for transaction in history.transactions:
            own = [first[key] for key in transaction.keys if key in first]
            for before, after in pairwise(own):
                handled = consumer in history.groups or before.number < after.number
                if not handled or before.message >= after.message:
                    findings.add("order", f"{after.key} of {transaction.name} at {consumer}")


def _look_at_dead(history: History, findings: Findings) -> None:
    due: set[str] = set()
    possible: set[str] = set()
    for transaction in history.transactions:
        if transaction.outcome == "sent":
            due.update(transaction.poison)
        if transaction.outcome != "failed":
            possible.update(transaction.poison)
    times = Counter((letter.consumer, letter.key) for letter in history.dead)
    for (consumer, key), count in times.items():
        if key not in possible or count > 1:
            findings.add("dead", f"{key} at {consumer}, {count} times")
    for consumer in history.consumers:
        for key in due:
            if (consumer, key) not in times:
                findings.add("dead", f"{key} at {consumer} is missing")
    for effect in history.effects:
        if effect.key in possible:
            findings.add("kept", f"{effect.key} at {effect.consumer}")
    for letter in history.dead:
        if letter.reason > LONGEST_REASON:
            findings.add("text", f"{letter.key} at {letter.consumer}: {letter.reason} characters")


def _look_at_attempts(history: History, findings: Findings) -> None:
    """Check that each dead letter took the configured number of attempts, and all were counted."""
    if history.max_retries is None:
        return
    tried: dict[tuple[str, str], set[int]] = defaultdict(set)
    for attempt in history.attempts:
        tried[attempt.consumer, attempt.key].add(attempt.retry)
    expected = set(range(history.max_retries + 1))
    for letter in history.dead:
        counted = tried[letter.consumer, letter.key]
        if counted != expected:
            text = f"{letter.key} at {letter.consumer} died after {len(counted)} counted attempts"
            findings.add("dead", text)
    for (consumer, key), counted in tried.items():
        if counted and max(counted) > history.max_retries:
            findings.add("dead", f"{key} at {consumer} was retried {max(counted)} times")


def _look_for_loops(history: History, findings: Findings) -> None:
    """Find messages with many attempts in a short time: a retry must follow a pause."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for attempt in history.attempts:
        times[attempt.consumer, attempt.key].append(attempt.at)
    for (consumer, key), each in times.items():
        each.sort()
        most = max(bisect_right(each, at + LOOP_SECONDS) - n for n, at in enumerate(each))
        if most > LOOP_ATTEMPTS:
            findings.add("loop", f"{key} at {consumer}, {most} times in {LOOP_SECONDS:g} s")


def counts(transactions: Iterable[Transaction]) -> Counter[str]:
    """Count events by outcome. Events of a rolled-back savepoint count as failed."""
    found: Counter[str] = Counter()
    for transaction in transactions:
        found[transaction.outcome] += len(transaction.keys)
        found["failed"] += len(transaction.undone)
        found["poison"] += len(transaction.poison)
    return found
