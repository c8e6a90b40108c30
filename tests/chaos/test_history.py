"""The checker of histories sees each kind of violation, and none where there is none."""

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
        effect(3, GROUP, "b", batch=2),  # handled before: another member has it
    ],
    attempts=[
        Attempt(ONE, 1, 10, 0, "a"),  # its batch came again after a crash
        Attempt(ONE, 1, 10, 0, "a"),
        Attempt(GROUP, 2, 10, 0, "a"),  # a zombie's, whose batch was taken over
        Attempt(ONE, 1, 19, 0, "p"),
        Attempt(ONE, 2, 19, 1, "p"),
    ],
    dead=[Dead(ONE, "p"), Dead(GROUP, "p")],
)


def found(history: History) -> dict[str, int]:
    return {kind: len(texts) for kind, texts in check(history).by_kind.items() if texts}


def test_a_history_in_which_all_is_well():
    assert check(GOOD).count == 0
    assert set(check(GOOD).by_kind) == set(VIOLATIONS)


def without(effects: list[Effect], consumer: str, key: str) -> list[Effect]:
    return [each for each in effects if (each.consumer, each.key) != (consumer, key)]


@pytest.mark.parametrize("consumer", [ONE, GROUP])
def test_p1_an_event_that_a_consumer_never_got(consumer):
    effects = without(GOOD.effects, consumer, "b")
    assert found(replace(GOOD, effects=effects)) == {"lost": 1}


@pytest.mark.parametrize("key", ["c", "d", "g"])
def test_p1_an_event_of_a_savepoint_a_transaction_or_nobody_that_was_undone(key):
    handled = [*GOOD.effects, effect(9, ONE, key, batch=5)]
    assert found(replace(GOOD, effects=handled)) == {"ghost": 1}
    called = [*GOOD.attempts, Attempt(ONE, 5, MESSAGES[key], 0, key)]
    assert found(replace(GOOD, attempts=called)) == {"ghost": 1}
    dead = [*GOOD.dead, Dead(ONE, key)]
    assert found(replace(GOOD, dead=dead)) == {"ghost": 1, "dead": 1}


@pytest.mark.parametrize("consumer", [ONE, GROUP])
def test_p3_an_event_that_was_handled_and_committed_twice(consumer):
    effects = [*GOOD.effects, effect(9, consumer, "a", batch=5, retry=1)]
    assert found(replace(GOOD, effects=effects)) == {"twice": 1}


def test_p3_an_event_that_came_again_after_its_ack():
    attempts = [*GOOD.attempts, Attempt(ONE, 2, 10, 0, "a")]
    assert found(replace(GOOD, attempts=attempts)) == {"again": 1}


def test_p1_a_transaction_of_which_a_part_was_delivered():
    everybody = [
        effect(number, name, key, batch=7)
        for number, (name, key) in enumerate(((n, k) for n in (ONE, GROUP) for k in "ef"), 20)
    ]
    assert found(replace(GOOD, effects=[*GOOD.effects, *everybody])) == {}
    for missing in everybody:
        part = [each for each in everybody if each != missing]
        assert found(replace(GOOD, effects=[*GOOD.effects, *part])) == {"torn": 1}


def test_p4_events_of_a_transaction_in_another_order():
    later = [*without(GOOD.effects, ONE, "a"), effect(9, ONE, "a", batch=5)]
    assert found(replace(GOOD, effects=later)) == {"order": 1}
    refused = [*without(GOOD.effects, ONE, "a"), effect(9, ONE, "a", batch=5, retry=1)]
    assert found(replace(GOOD, effects=refused)) == {}


def test_p4_a_batch_that_is_not_in_order_of_ids():
    effects = [effect(5, GROUP, "b", batch=9), effect(6, GROUP, "a", batch=9)]
    others = [each for each in GOOD.effects if each.consumer == ONE]
    assert found(replace(GOOD, effects=[*others, *effects])) == {"order": 1}


def test_ids_of_a_transaction_that_are_not_in_the_order_of_sending():
    backwards = Transaction("t1", ["b", "a"], [], [], "sent")
    transactions = [backwards, *GOOD.transactions[1:]]
    assert found(replace(GOOD, transactions=transactions)) == {"order": 2}


def test_dead_letters_that_should_not_be_or_are_missing():
    assert found(replace(GOOD, dead=[*GOOD.dead, Dead(ONE, "a")])) == {"dead": 1}
    assert found(replace(GOOD, dead=[*GOOD.dead, Dead(ONE, "p")])) == {"dead": 1}
    assert found(replace(GOOD, dead=GOOD.dead[:1])) == {"lost": 1, "dead": 1}


def test_an_effect_that_is_kept_of_a_message_that_died():
    handled = [*GOOD.effects, effect(9, ONE, "p", batch=5)]
    assert found(replace(GOOD, effects=handled)) == {"kept": 1}


def test_a_reason_that_is_stored_whole_though_it_is_long():
    for length, kinds in ((LONGEST_REASON, {}), (LONGEST_REASON + 1, {"text": 1})):
        dead = [Dead(ONE, "p", length), Dead(GROUP, "p")]
        assert found(replace(GOOD, dead=dead)) == kinds


def tried(*retries: int) -> list[Attempt]:
    """Attempts at the poison by both consumers, and at nothing else."""
    return [
        Attempt(name, n, MESSAGES["p"], n, "p", at=10.0 * n)
        for name in (ONE, GROUP)
        for n in retries
    ]


def test_a_dead_letter_takes_the_attempts_that_the_queue_allows():
    history = replace(GOOD, max_retries=2)
    assert found(replace(history, attempts=tried(0, 1, 2))) == {}
    assert found(replace(history, attempts=tried(0, 1, 1, 2))) == {}  # a batch that came again
    assert found(replace(history, attempts=tried(0, 2))) == {"dead": 2}
    assert found(replace(history, attempts=tried(0))) == {"dead": 2}
    assert found(replace(history, attempts=[])) == {"dead": 2}
    # Dead at last, but tried once more than allowed: neither the letter nor the count is right.
    assert found(replace(history, attempts=tried(0, 1, 2, 3))) == {"dead": 4}


def test_a_message_that_is_tried_without_a_pause():
    def at(pause: float) -> History:
        count = LOOP_ATTEMPTS + 1
        again = [Attempt(ONE, 1, 10, 0, "a", at=100 + n * pause) for n in range(count)]
        return replace(GOOD, attempts=again)

    assert found(at(LOOP_SECONDS / (LOOP_ATTEMPTS + 1))) == {"loop": 1}
    assert found(at(LOOP_SECONDS / (LOOP_ATTEMPTS - 1))) == {}


def test_events_are_counted_by_what_became_of_them():
    assert counts(GOOD.transactions) == {"sent": 3, "failed": 2, "unknown": 2, "poison": 1}
