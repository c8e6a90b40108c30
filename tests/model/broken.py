"""Broken engines: in each, one function has one plausible mistake.

The machine must find each of them. If a function no longer contains the text to replace, an
assertion fails.
"""

from typing import NamedTuple

import psycopg

from tests.fix_engine import value


class Variant(NamedTuple):
    """Mistakes in one function: pairs of the correct text and its replacement."""

    function: str
    changes: tuple[tuple[str, str], ...]
    also: str = ""
    """A statement that breaks something outside the function's text."""


TICK_LOCK = "    perform pg_advisory_xact_lock(1885827446, q.queue_id);\n"
TAKE_SNAPSHOT = "    snap := pgque._snapshot();\n"

FILLED = (
    "if pg_relation_size(format('pgque.tick_%s', other)) "
    "+ pg_relation_size(format('pgque.cursor_%s', other)) > 0"
)
SHOW_NO_ERROR = """
    do $$
    declare
        function regprocedure;
    begin
        for function in
            select oid from pg_proc
            where pronamespace = 'pgque'::regnamespace and 'row_security=off' = any (proconfig)
        loop
            execute format('alter function %s set row_security = on', function);
        end loop;
    end
    $$
"""

VARIANTS = {
    "a ticker without its lock": Variant("_take_tick", ((TICK_LOCK, ""),)),
    "a ticker that takes its snapshot before the lock": Variant(
        "_take_tick", ((TAKE_SNAPSHOT, ""), (TICK_LOCK, TAKE_SNAPSHOT + TICK_LOCK))
    ),
    "a tick that treats its own transaction as visible": Variant(
        "_snapshot", ((" union all select pg_current_xact_id()", ""),)
    ),
    "a tick that ignores the youngest transactions": Variant(
        "_snapshot", (("if after_xmax = xmax then", "if true then"),)
    ),
    "a ticker that ignores late commits": Variant(
        "_next_tick", (("where not pg_visible_in_snapshot(txid, snap)", "where false"),)
    ),
    "a batch that reads only the current child of the log": Variant(
        "_span_arms",
        (
            (
                "from %s e where {of_owner} '\n            'and (e.ev_txid",
                "from %s e where e.tableoid = (select (q.queue_data_pfx || ''_'' || "
                "q.queue_cur_table)::regclass from pgque.queue q where q.queue_id = s.queue_id) "
                "and {of_owner} '\n            'and (e.ev_txid",
            ),
        ),
    ),
    "a batch without late transactions": Variant(
        "_late", (("where pg_visible_in_snapshot(txid, later)", "where false"),)
    ),
    "an ack that ignores the fencing token": Variant(
        "_find_batch", (("if c.cur_batch = batch_id then", "if c.cur_sub is not null then"),)
    ),
    "an ack that does not advance past part of a window": Variant(
        "_finish_batch", (("c.cur_place := c.cur_upto;", "null;"),)
    ),
    "an ack of part of a window that finishes all of it": Variant(
        "_finish_batch",
        (("if not pgque._same_place(c.cur_upto, c.cur_end) then", "if false then"),),
    ),
    "a batch that keeps its id when it grows": Variant(
        "_open_batch",
        (
            (
                "span.batch_id := nextval('pgque.batch_id_seq');",
                "span.batch_id := coalesce(c.cur_batch, nextval('pgque.batch_id_seq'));",
            ),
        ),
    ),
    "a position read with an old snapshot": Variant(
        "_lock_position", (("            c := pgque._move(c);\n", "            null;\n"),)
    ),
    "a rotation that does not wait for the slowest consumer": Variant(
        "_log_has_unseen",
        (
            (
                "            where s.sub_queue = $1\n            union",
                "            where false\n            union",
            ),
        ),
    ),
    "a rotation that forgets late transactions": Variant(
        "_log_has_unseen",
        (
            (
                " and e.ev_txid = txid\n                        and e.ev_id > t.tick_floor",
                " and false",
            ),
        ),
    ),
    "a rotation that forgets late redeliveries": Variant(
        "_log_has_unseen",
        (
            (
                "e.ev_owner = s.sub_id\n                        and e.ev_txid = txid",
                "false",
            ),
        ),
    ),
    "a rotation of the ledger that forgets the ends of open windows": Variant(
        "_copy_ledger",
        (("select sub_queue, cur_next_tick from stands", "select null::int, null::bigint"),),
    ),
    "a nack that never makes a dead letter": Variant(
        "_nack", (("if e.ev_retry < (", "if true or e.ev_retry < ("),)
    ),
    "a nack_many that never makes dead letters": Variant(
        "_nack_many",
        (
            ("where ev_retry < max_retries", "where true"),
            ("where ev_retry >= max_retries\n            and", "where false and"),
        ),
    ),
    "a retry that is delivered to every consumer": Variant(
        "_append_retries",
        (("select ev_id, ev_time, $2, ev_owner,", "select ev_id, ev_time, $2, null,"),),
    ),
    "a takeover that leaves the old batch open": Variant(
        "_take_over", (("perform pgque._move(dead);", "null;"),)
    ),
    "a takeover that leaves the old id valid": Variant(
        "_take_over", (("dead.cur_batch := null;", "null;"),)
    ),
    "a member that can leave while it holds a batch": Variant(
        "unregister_subconsumer",
        (("if c.cur_next_tick is not null and batch_handling = 0 then", "if false then"),),
    ),
    "a ticker that assumes the clock never goes back": Variant(
        "_is_past", ((" and at <= clock_timestamp()", ""),)
    ),
    "a takeover that trusts times in the future": Variant(
        "_is_far", ((" or at >= pgque._from_now(span)", ""),)
    ),
    "an event sequence that is not advanced": Variant(
        "_need_last_tick",
        (
            (
                "elsif pgque._sequence_value(q.queue_event_seq) < last.tick_seq_after then",
                "elsif false then",
            ),
        ),
    ),
    "a batch sequence that is not advanced": Variant(
        "_advance_sequences",
        (("where behind.used >", "where false and behind.used >"),),
    ),
    "a maint_retry_events that does not notice a restore": Variant(
        "maint_retry_events", (("perform pgque._after_restore();", "null;"),)
    ),
    "a reader whose rows are hidden without an error": Variant(
        "_is_past", (("select not (at >", "select not (at >"),), SHOW_NO_ERROR
    ),
    "a switch of the ledger to a non-empty child": Variant(
        "maint_rotate_ledger",
        (
            (FILLED + " then\n        -- Sessions", "if false then\n        -- Sessions"),
            (
                "elsif " + FILLED.removeprefix("if ") + " then\n        return 0;",
                "elsif false then\n        return 0;",
            ),
        ),
    ),
}


# Variants that need rare sequences of steps or a long search, and therefore PGQUE_LONG=1.
RARE = {
    "a nack_many that never makes dead letters",
    "a nack that never makes a dead letter",
    "a tick that treats its own transaction as visible",
    "a ticker that takes its snapshot before the lock",
    "a rotation that forgets late transactions",
    "a rotation that forgets late redeliveries",
    "a rotation of the ledger that forgets the ends of open windows",
    "a tick that ignores the youngest transactions",
}


def make_broken(dsn: str, variant: Variant) -> None:
    """Apply the mistakes of a variant to the engine of a database."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        name = f"pgque.{variant.function}"
        text = value(conn, "select pg_get_functiondef(%s::regproc)", name)
        for right, wrong in variant.changes:
            assert text.count(right) == 1, f"{name} must contain this text exactly once: {right}"
            text = text.replace(right, wrong)
        conn.execute(text.encode())
        if variant.also:
            conn.execute(variant.also.encode())
