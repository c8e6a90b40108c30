"""The check of a history finds each kind of violation, and none in a good history."""

from dataclasses import replace

import pytest

from bench.chaos.history import (
    LONGEST_REASON,
    LOOP_ATTEMPTS,
    LOOP_SECONDS,
    VIOLATIONS,
    Attempt,
    Dead,
    Effect,
    History,
    Transaction,
    check,
    counts,
)

ONE, GROUP = "one", "group"


def effect(number: int, consumer: str, key: str, *, batch: int = 1, retry: int = 0) -> Effect:
    return Effect(number, consumer, batch, message=MESSAGES[key], retry=retry, key=key)


MESSAGES = {key: number for number, key in enumerate("abcdefgp", start=10)}

SENT = Transaction("t1", ["a", "b"], ["c"], [], "sent")
FAILED = Transaction("t2", ["d"], [], [], "failed")
UNKNOWN = Transaction("t3", ["e", "f"], [], [], "unknown")
POISON = Transaction("t4", ["p"], [], ["p"], "sent")

GOOD = History(
    consumers=[ONE, GROUP],
    groups=[GROUP],
    transactions=[SENT, FAILED, UNKNOWN, POISON],
    effects=[
        effect(1, ONE, "a"),
        effect(2, ONE, "b"),
        effect(4, GROUP, "a", batch=3),
        effect(3, GROUP, "b", batch=2),  # handled earlier, by another member
    ],
    attempts=[
        Attempt(ONE, 1, 10, 0, "a"),  # its batch was delivered again after a crash
        Attempt(ONE, 1, 10, 0, "a"),
        Attempt(GROUP, 2, 10, 0, "a"),  # by a zombie whose batch was taken over
        Attempt(ONE, 1, 19, 0, "p"),
        Attempt(ONE, 2, 19, 1, "p"),
    ],
    dead=[Dead(ONE, "p"), Dead(GROUP, "p")],
)


def found(history: History) -> dict[str, int]:
    return {kind: len(texts) for kind, texts in check(history).by_kind.items() if texts}


def test_a_good_history_has_no_violations():
    assert check(GOOD).count == 0
    assert set(check(GOOD).by_kind) == set(VIOLATIONS)


def without(effects: list[Effect], consumer: str, key: str) -> list[Effect]:
    return [each for each in effects if (each.consumer, each.key) != (consumer, key)]


@pytest.mark.parametrize("consumer", [ONE, GROUP])
def test_p1_an_undelivered_event_is_found(consumer):
    effects = without(GOOD.effects, consumer, "b")
    assert found(replace(GOOD, effects=effects)) == {"lost": 1}


@pytest.mark.parametrize("key", ["c", "d", "g"])
def test_p1_a_delivered_event_that_was_rolled_back_or_never_sent_is_found(key):
    handled = [*GOOD.effects, effect(9, ONE, key, batch=5)]
    assert found(replace(GOOD, effects=handled)) == {"ghost": 1}
    called = [*GOOD.attempts, Attempt(ONE, 5, MESSAGES[key], 0, key)]
    assert found(replace(GOOD, attempts=called)) == {"ghost": 1}
    dead = [*GOOD.dead, Dead(ONE, key)]
    assert found(replace(GOOD, dead=dead)) == {"ghost": 1, "dead": 1}


@pytest.mark.parametrize("consumer", [ONE, GROUP])
def test_p3_an_event_handled_and_committed_twice_is_found(consumer):
    effects = [*GOOD.effects, effect(9, consumer, "a", batch=5, retry=1)]
    assert found(replace(GOOD, effects=effects)) == {"twice": 1}


def test_p3_an_event_delivered_again_after_its_ack_is_found():
    attempts = [*GOOD.attempts, Attempt(ONE, 2, 10, 0, "a")]
    assert found(replace(GOOD, attempts=attempts)) == {"again": 1}


def test_p1_a_transaction_delivered_in_part_is_found():
    complete = [
        effect(number, name, key, batch=7)
        for number, (name, key) in enumerate(((n, k) for n in (ONE, GROUP) for k in "ef"), 20)
    ]
    assert found(replace(GOOD, effects=[*GOOD.effects, *complete])) == {}
    for missing in complete:
        part = [each for each in complete if each != missing]
        assert found(replace(GOOD, effects=[*GOOD.effects, *part])) == {"torn": 1}


def test_p4_reordered_events_of_a_transaction_are_found():
    later = [*without(GOOD.effects, ONE, "a"), effect(9, ONE, "a", batch=5)]
    assert found(replace(GOOD, effects=later)) == {"order": 1}
    refused = [*without(GOOD.effects, ONE, "a"), effect(9, ONE, "a", batch=5, retry=1)]
    assert found(replace(GOOD, effects=refused)) == {}


def test_p4_a_batch_that_is_not_ordered_by_id_is_found():
    effects = [effect(5, GROUP, "b", batch=9), effect(6, GROUP, "a", batch=9)]
    others = [each for each in GOOD.effects if each.consumer == ONE]
    assert found(replace(GOOD, effects=[*others, *effects])) == {"order": 1}


def test_ids_that_contradict_the_order_of_sending_are_found():
    backwards = Transaction("t1", ["b", "a"], [], [], "sent")
    transactions = [backwards, *GOOD.transactions[1:]]
    assert found(replace(GOOD, transactions=transactions)) == {"order": 2}


def test_wrong_and_missing_dead_letters_are_found():
    assert found(replace(GOOD, dead=[*GOOD.dead, Dead(ONE, "a")])) == {"dead": 1}
    assert found(replace(GOOD, dead=[*GOOD.dead, Dead(ONE, "p")])) == {"dead": 1}
    assert found(replace(GOOD, dead=GOOD.dead[:1])) == {"lost": 1, "dead": 1}


def test_a_kept_effect_of_a_dead_letter_is_found():
    handled = [*GOOD.effects, effect(9, ONE, "p", batch=5)]
    assert found(replace(GOOD, effects=handled)) == {"kept": 1}


def test_an_overlong_reason_is_found():
    for length, kinds in ((LONGEST_REASON, {}), (LONGEST_REASON + 1, {"text": 1})):
        dead = [Dead(ONE, "p", length), Dead(GROUP, "p")]
        assert found(replace(GOOD, dead=dead)) == kinds


def tried(*retries: int) -> list[Attempt]:
    """Return attempts at the poison message only, by both consumers."""
    return [
        Attempt(name, n, MESSAGES["p"], n, "p", at=10.0 * n)
        for name in (ONE, GROUP)
        for n in retries
    ]


def test_a_dead_letter_with_the_wrong_number_of_attempts_is_found():
    history = replace(GOOD, max_retries=2)
    assert found(replace(history, attempts=tried(0, 1, 2))) == {}
    assert found(replace(history, attempts=tried(0, 1, 1, 2))) == {}  # a redelivered batch
    assert found(replace(history, attempts=tried(0, 2))) == {"dead": 2}
    assert found(replace(history, attempts=tried(0))) == {"dead": 2}
    assert found(replace(history, attempts=[])) == {"dead": 2}
    # One attempt too many: both the dead letter and the count are wrong.
    assert found(replace(history, attempts=tried(0, 1, 2, 3))) == {"dead": 4}


def test_a_message_retried_without_a_pause_is_found():
    def at(pause: float) -> History:
        count = LOOP_ATTEMPTS + 1
        again = [Attempt(ONE, 1, 10, 0, "a", at=100 + n * pause) for n in range(count)]
        return replace(GOOD, attempts=again)

    assert found(at(LOOP_SECONDS / (LOOP_ATTEMPTS + 1))) == {"loop": 1}
    assert found(at(LOOP_SECONDS / (LOOP_ATTEMPTS - 1))) == {}


def test_events_are_counted_by_outcome():
    assert counts(GOOD.transactions) == {"sent": 3, "failed": 2, "unknown": 2, "poison": 1}
