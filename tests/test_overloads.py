"""Every notation for a payload resolves to a function of that name (sql/send)."""

import pytest

from tests.fix_engine import Connection, drain, payloads, refused, value

ROW = '{"id":1,"name":"é"}'
SCHEMA = """
    create domain public.words as text;
    create domain public.document as jsonb;
    create domain public.note as json;
    create domain public.list as text[];
    create table public.item (id int, name varchar(10));
    insert into public.item values (1, 'é')
"""

# The payload as written, and as stored.
PAYLOADS = [
    ("'a'", "a"),
    ("null", None),
    ("'a'::text", "a"),
    ("'a'::varchar", "a"),
    ("'a'::varchar(5)", "a"),
    ("'a'::name", "a"),
    ("'a'::char(1)", "a"),
    ("'a'::public.words", "a"),
    ("'a' || 'b'", "ab"),
    ("format('%%s', 'a')", "a"),
    ("null::json", None),
    ("null::jsonb", None),
    ("""'{"b":1,  "a":2}'::json""", '{"b":1,  "a":2}'),
    ("""'{"b":1,  "a":2}'::public.note""", '{"b":1,  "a":2}'),
    ("""'{"b":1,  "a":2}'::jsonb""", '{"a": 2, "b": 1}'),
    ("""'{"b":1,  "a":2}'::public.document""", '{"a": 2, "b": 1}'),
    ("(select row_to_json(i) from public.item i)", ROW),
    ("(select to_json(i) from public.item i)", ROW),
    ("json_build_object('a', 1)", '{"a" : 1}'),
    ("(select to_jsonb(i) from public.item i)", '{"id": 1, "name": "é"}'),
    ("(select name from public.item)", "é"),
    ("(select i::text from public.item i)", "(1,é)"),
]
BATCHES = [
    ("'{a,b}'", ["a", "b"]),
    ("'{}'", []),
    ("array['a', 'b']", ["a", "b"]),
    ("array['a', null]", ["a", None]),
    ("array[null, 'b']::text[]", [None, "b"]),
    ("'{a,b}'::text", ["a", "b"]),
    ("'{a,b}'::varchar[]", ["a", "b"]),
    ("'{a,b}'::public.list", ["a", "b"]),
    ("array['a']::public.words[]", ["a"]),
    ("array['a'::public.words]", ["a"]),
    ("array['{\"b\":1}']::json[]", ['{"b":1}']),
    ("array['{\"b\":1}', null]::jsonb[]", ['{"b": 1}', None]),
    ("array['{\"b\":1}'::public.document]", ['{"b": 1}']),
    ("(select array_agg(row_to_json(i)) from public.item i)", [ROW]),
    ("(select array_agg(to_jsonb(i)) from public.item i)", ['{"id": 1, "name": "é"}']),
    ("(select array_agg(name) from public.item)", ["é"]),
    ("string_to_array('a b', ' ')", ["a", "b"]),
]


@pytest.fixture(scope="module")
def typed(shared: Connection) -> Connection:
    shared.execute(SCHEMA)
    return shared


def ways(name: str, payload: str) -> list[str]:
    """Both forms of the call, positional and named, with the queue's name as two kinds of text."""
    word = "payloads" if name == "send_batch" else "payload"
    return [
        f"pgque.{name}(%s, {payload})",
        f"pgque.{name}(%s::text, 't', {payload})",
        f"pgque.{name}(%s::varchar, 't'::varchar, {payload})",
        f"pgque.{name}(%s, null, {payload})",
        f"pgque.{name}(queue_name := %s, {word} := {payload})",
        f"pgque.{name}({word} => {payload}, type_name => 't', queue_name => %s)",
        f"pgque.{name}(%s, {word} := {payload})",
    ]


@pytest.mark.parametrize(("payload", "stored"), PAYLOADS)
def test_send_accepts_every_payload_positionally_and_by_name(typed, shared_queue, payload, stored):
    calls = ways("send", payload)
    for call in calls:
        value(typed, f"select {call}", shared_queue)
    assert payloads(drain(typed, shared_queue, "c")) == [stored] * len(calls)


@pytest.mark.parametrize(("payload", "stored"), BATCHES)
def test_send_batch_accepts_every_array_positionally_and_by_name(
    typed, shared_queue, payload, stored
):
    calls = ways("send_batch", payload)
    for call in calls:
        assert len(value(typed, f"select {call}", shared_queue)) == len(stored)
    assert payloads(drain(typed, shared_queue, "c")) == stored * len(calls)


@pytest.mark.parametrize("arguments", ["null", "'t', null", "null, null", "payloads := null"])
def test_p10_an_untyped_null_is_a_null_array(typed, shared_queue, arguments):
    with refused("22023", "payloads must not be null"):
        typed.execute(f"select pgque.send_batch('{shared_queue}', {arguments})".encode())


@pytest.mark.parametrize("arguments", ["'a,b'", "'t', 'a'", "'t', '{a'"])
def test_p10_a_text_that_is_not_an_array_is_refused(typed, shared_queue, arguments):
    with refused("22023", "payloads must be an array"):
        typed.execute(f"select pgque.send_batch('{shared_queue}', {arguments})".encode())


def test_prepared_statements_with_untyped_parameters_mean_text(typed, shared_queue):
    typed.execute("prepare one as select pgque.send($1, $2, $3)")
    typed.execute("prepare many as select pgque.send_batch($1, $2)")
    typed.execute(f"execute one('{shared_queue}', 't', '{{ }}')".encode())
    typed.execute(f"execute many('{shared_queue}', '{{a,b}}')".encode())
    typed.execute("deallocate all")
    assert payloads(drain(typed, shared_queue, "c")) == ["{ }", "a", "b"]
