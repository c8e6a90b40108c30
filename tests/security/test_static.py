"""plpgsql_check on every PL/pgSQL function, with reviewed exceptions."""

import re
import secrets

import psycopg
import pytest

from tests.fix_engine import Connection, value
from tests.security.fix_security import record

LITERAL = (
    r'cast "text" value to "(?!bigint"|integer"|interval"|timestamp)[^ ]+" type: '
    r"The input expression type does not have an assignment cast"
)
ACCEPTED = [
    # functions, level: message: detail, why
    (
        ".*",
        r"warning: .*" + LITERAL,
        "a literal or a composed text, converted by the input function of its type",
    ),
    (
        r"_event_\d+_near",
        'warning: .*cast "text" value to "bigint" type',
        "the only cast from xid8 to bigint is through text",
    ),
    (
        "_span",
        'warning: .*cast "xid8" value to "pgque.place" type',
        "a row of two columns is assigned to a composite variable by column",
    ),
    (
        "_events",
        'warning extra: OUT variable "ev_.*" is maybe unmodified',
        "return query execute fills them",
    ),
    (
        "_place|_cut",
        "warning: cannot determinate a result of dynamic SQL",
        "into a variable of type pgque.place",
    ),
    (
        "_pass_over_nothing",
        "warning extra: control reached end of function without RETURN",
        "only a return ends the loop",
    ),
    (
        "_snapshot",
        'warning extra: never read variable "fixed"',
        "its initialization fixes the transaction id from which age() counts",
    ),
    (
        "get_batch_cursor",
        "compatibility: obsolete setting of refcursor",
        "the caller names the cursor by design",
    ),
    (
        "start|stop|status",
        'error: (schema "cron"|relation "cron.job") does not exist',
        "runs only if pg_cron is installed",
    ),
    (
        "_append_retries|_rebase_ticks|_retry_unseen_redeliveries|_truncate_child|_log_has_unseen"
        "|_copy_ledger|maint_rotate_ledger|_lock_briefly|drop_queue|create_queue"
        "|_append_batch|_unticked_for|_advance_event_ids|_report_lost_events|_own_put_back",
        "security: text type variable is not sanitized",
        "names that create_queue made from a queue's id, which only the owner can write",
    ),
    (
        "grant_queue|revoke_queue|_make_log|_make_log_function|_make_force_sequence|_grant_log"
        "|_make_history_sequence|_make_put_back_counter",
        "security: text type variable is not sanitized",
        "the name of a log or its function, made from a queue's id; the role is quoted with %I",
    ),
    (
        "_replace_config",
        'error: record "new" has no field "schema_version"',
        "a trigger only on pgque.config, which the checker does not know",
    ),
    (
        "set_queue_config",
        "security: text type variable is not sanitized",
        "the type of a column of pgque.queue, from the catalog; the value is a parameter",
    ),
    (
        "_capture|_capture_row|_capture_values",
        "security: the expression is not SQL injection safe",
        "runs the trigger's expressions with the rights of the role that changes the table",
    ),
]
# Casts of integers, and functions that are volatile on purpose: each statement gets a new snapshot.
PERFORMANCE = re.compile("Hidden casting|routine is marked as VOLATILE")


@pytest.fixture(scope="module")
def checked(databases, template):
    """Return a connection to a database with plpgsql_check and all kinds of generated functions."""
    dsn = databases.create(template)
    with psycopg.connect(dsn, autocommit=True) as conn:
        available = "select count(*) from pg_available_extensions where name = 'plpgsql_check'"
        if not value(conn, available):
            databases.drop(dsn)
            pytest.skip("this server has no plpgsql_check (postgresql-15-plpgsql-check)")
        conn.execute("create extension plpgsql_check")
        value(conn, "select pgque.create_queue('one')")
        role = f"static_{secrets.token_hex(4)}"
        conn.execute(f"create role {role}".encode())
        value(conn, "select pgque.grant_queue(%s, 'one', 'consume')", role)
        conn.execute("create table public.captured (id int primary key, words text)")
        yield conn
        conn.execute(f"drop owned by {role}; drop role {role}".encode())
    databases.drop(dsn)


FOUND = """
    select p.proname, concat_ws(': ', c.level, c.message, c.detail, c.hint)
    from pg_proc p
    join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
    cross join lateral plpgsql_check_function_tb(
        p.oid,
        case
            when p.proname = '_answer' then 'pgque._call'::regclass
            when p.prorettype = 'trigger'::regtype then 'public.captured'::regclass
            else 0
        end,
        all_warnings := true) c
    where p.pronamespace = 'pgque'::regnamespace
"""


def test_plpgsql_check_finds_only_accepted_warnings(checked: Connection):
    found = checked.execute(FOUND).fetchall()
    used = set()
    unexpected = []
    for function, text in found:
        if PERFORMANCE.search(text) and "performance: " in text:
            continue
        reasons = [
            number
            for number, (functions, message, _) in enumerate(ACCEPTED)
            if re.fullmatch(functions, function) and re.match(message, text)
        ]
        used.update(reasons)
        if not reasons:
            unexpected.append((function, text))
    assert not unexpected, "\n".join(map(str, unexpected))
    assert used == set(range(len(ACCEPTED))), "an exception is no longer needed"
    functions = (
        "select count(*) from pg_proc p join pg_language l on l.oid = p.prolang "
        "where l.lanname = 'plpgsql' and pronamespace = 'pgque'::regnamespace"
    )
    version = "select extversion from pg_extension where extname = 'plpgsql_check'"
    record(
        "plpgsql_check",
        checked,
        functions=value(checked, functions),
        version=value(checked, version),
        unexpected=0,
        accepted_kinds=len(ACCEPTED),
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("declare n int; begin n := missing; end", 'column "missing" does not exist'),
        ("begin perform from pgque.queue where no_such = 1; end", "no_such"),
        ("begin execute 'select ' || queue; end", "not sanitized|not SQL injection safe"),
        ("declare unused int; begin return; end", 'unused variable "unused"'),
    ],
)
def test_plpgsql_check_finds_faults(checked: Connection, body: str, message: str):
    with checked.transaction(force_rollback=True):
        checked.execute(
            f"create function pgque._faulty(queue text) returns void language plpgsql "
            f"as $$ {body} $$".encode()
        )
        found = [text for name, text in checked.execute(FOUND).fetchall() if name == "_faulty"]
        assert any(re.search(message, text) for text in found), found
