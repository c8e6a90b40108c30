"""A call of each public function in the prepared situation, and its effect on delivery.

The tests fail for a new public function until it has a call here, or a reason not to.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """A statement, with facts of the situation in braces.

    finishes: the consumer whose open batch the call acks, at least in part. repeats: the consumer
    whose events may be redelivered once. moves: the consumer whose position changes, so that its
    deliveries cannot be checked.
    """

    statement: str
    finishes: str = ""
    repeats: str = ""
    moves: str = ""


def of(arguments: str, **meaning: str) -> Call:
    return Call(arguments, **meaning)


MESSAGE = "row({%s_event},0,'','',0,now(),'','','','')::pgque.message"
NACKED = MESSAGE % "c"
FIELDS = "now(), '3', 0, 't', 'd'"

NOT_CALLED = {
    "ticker_loop()": "commits by itself; it calls ticker() and maint()",
    "uninstall()": "drops everything",
}

# Arguments of pgque.<name>(arguments), or a whole statement.
CALLS: dict[str, list[Call]] = {
    # Produce
    "send(text,text)": [of("'q', 'x'::text")],
    "send(text,json)": [of("'q', '1'::json")],
    "send(text,jsonb)": [of("'q', '1'::jsonb")],
    "send(text,text,text)": [of("'q', 't', 'x'::text")],
    "send(text,text,json)": [of("'q', 't', '1'::json")],
    "send(text,text,jsonb)": [of("'q', 't', '1'::jsonb")],
    "send_batch(text,text)": [of("'q', '{{x,y}}'")],
    "send_batch(text,text[])": [of("'q', '{{x,y}}'::text[]")],
    "send_batch(text,json[])": [of("'q', '{{1,2}}'::json[]")],
    "send_batch(text,jsonb[])": [of("'q', '{{1,2}}'::jsonb[]")],
    "send_batch(text,text,text)": [of("'q', 't', '{{x,y}}'")],
    "send_batch(text,text,text[])": [of("'q', 't', '{{x,y}}'::text[]")],
    "send_batch(text,text,text[],text)": [of("'q', 't', '{{x,y}}'::text[], '{{}}'")],
    "send_batch(text,text,json[])": [of("'q', 't', '{{1,2}}'::json[]")],
    "send_batch(text,text,jsonb[])": [of("'q', 't', '{{1,2}}'::jsonb[]")],
    "insert_event(text,text,text)": [of("'q', 't', 'x'")],
    "insert_event(text,text,text,text,text,text,text)": [of("'q', 't', 'x', 'a', 'b', 'c', 'd'")],
    "jsontriga()": [Call("insert into races.captured (kind) values ('json')")],
    "logutriga()": [Call("insert into races.captured (kind) values ('logu')")],
    "sqltriga()": [Call("insert into races.captured (kind) values ('sql')")],
    # Consume
    "subscribe(text,text)": [of("'q', 'new'"), of("'q', 'c'")],
    "register_consumer(text,text)": [of("'q', 'new'")],
    "register_consumer_at(text,text,bigint)": [of("'q', 'new', {tick}")],
    "unsubscribe(text,text)": [of("'q', 'c'", moves="c")],
    "unregister_consumer(text,text)": [of("'q', 'i'", moves="i")],
    "receive(text,text,integer)": [of("'q', 'i'"), of("'q', 'c'"), of("'q', 'c', 1")],
    "receive_merged(text,text,integer)": [of("'q', 'i'"), of("'q', 'c'")],
    "ack(bigint)": [of("{c_batch}", finishes="c"), of("{a_batch}", finishes="a")],
    "finish_batch(bigint)": [of("{c_batch}", finishes="c")],
    "ack_or_fail(bigint)": [of("{c_batch}", finishes="c")],
    "ack_part(bigint,bigint[])": [of("{c_batch}, array[{c_events[1]}]", finishes="c", repeats="c")],
    "nack(bigint,pgque.message,interval,text)": [
        of(f"{{c_batch}}, {NACKED}, '0'", repeats="c"),
        of(f"{{a_batch}}, {MESSAGE % 'a'}, '0'", repeats="a"),
    ],
    "nack_many(bigint,bigint[],interval,text[])": [
        of("{c_batch}, array{c_events}, '0'", repeats="c")
    ],
    "seek(text,text,bigint)": [of("'q', 'i', {tick}", moves="i")],
    "seek(text,text,timestampwithtimezone)": [of("'q', 'i', now()", moves="i")],
    "next_batch(text,text)": [of("'q', 'i'")],
    "next_batch_info(text,text)": [of("'q', 'i'")],
    "next_batch_custom(text,text,interval,integer,interval)": [of("'q', 'i', '0', 1, '0'")],
    "get_batch_events(bigint)": [of("{c_batch}")],
    "get_batch_cursor(bigint,text,integer)": [of("{c_batch}, 'events', 1")],
    "get_batch_cursor(bigint,text,integer,text)": [of("{c_batch}, 'events', 1, 'true'")],
    "event_retry(bigint,bigint,timestampwithtimezone)": [
        of("{c_batch}, {c_event}, now()", repeats="c")
    ],
    "event_retry(bigint,bigint,integer)": [of("{c_batch}, {c_event}, 0", repeats="c")],
    "batch_retry(bigint,integer)": [of("{c_batch}, 0", repeats="c")],
    "event_dead(bigint,bigint,text,timestampwithtimezone,xid8,integer,text,text,text,text,text,text)": [  # noqa: E501
        of(f"{{c_batch}}, {{c_event}}, 'why', {FIELDS}")
    ],
    # Cooperative consumers
    "register_subconsumer(text,text,text,boolean)": [
        of("'q', 'g', 'new'"),
        of("'q', 'new', 'a'"),
        of("'q', 'i', 'a', true", moves="i"),
    ],
    "subscribe_subconsumer(text,text,text,boolean)": [of("'q', 'g', 'new'")],
    "unregister_subconsumer(text,text,text,integer)": [
        of("'q', 'g', 'b'", moves="g"),
        of("'q', 'g', 'a', 1", moves="g"),
    ],
    "unsubscribe_subconsumer(text,text,text,integer)": [of("'q', 'g', 'b'", moves="g")],
    "receive_coop(text,text,text,integer,interval)": [
        of("'q', 'g', 'b'"),
        of("'q', 'g', 'b', 1, '0'"),
        of("'q', 'g', 'a', 1"),
        of("'q', 'g', 'new', 1"),
        of("'q', 'new', 'a', 1"),
    ],
    "receive_coop_merged(text,text,text,integer,interval)": [of("'q', 'g', 'b', 1, '0'")],
    "next_batch(text,text,text,interval)": [of("'q', 'g', 'b'"), of("'q', 'g', 'b', '0'")],
    "next_batch_custom(text,text,text,interval,integer,interval,interval)": [
        of("'q', 'g', 'b', '0', 1, '0', '0'")
    ],
    "touch_subconsumer(text,text,text)": [of("'q', 'g', 'a'")],
    # Queues, ticks, maintenance
    "create_queue(text)": [of("'new'"), of("'q'")],
    "create_queue(text,jsonb)": [
        of("""'new', '{{"max_retries": 2}}'"""),
        of("""'q', '{{"max_retries": 2}}'"""),
    ],
    "drop_queue(text)": [of("'x'")],
    "drop_queue(text,boolean)": [of("'q', true")],
    "set_queue_config(text,text,text)": [
        of("'q', 'max_retries', '7'"),
        of("'q', 'ticker_paused', 'true'"),
        of("'q', 'disable_insert', 'true'"),
    ],
    "grant_queue(text,text,text)": [of("'pgque_test_races', 'q', 'consume'")],
    "revoke_queue(text,text,text)": [of("'pgque_test_races', 'q', 'consume'")],
    "queue_grants()": [of("")],
    "ticker()": [of("")],
    "ticker(text)": [of("'q'")],
    "ticker(text,bigint,timestampwithtimezone,bigint)": [of("'x', 100, now(), 100")],
    "ticker_may_sleep()": [of("")],
    "ticks_are_late()": [of("")],
    "force_next_tick(text)": [of("'q'")],
    "force_tick(text)": [of("'q'")],
    "set_tick_period_ms(integer)": [of("20")],
    "start()": [of("")],
    "stop()": [of("")],
    "status()": [of("")],
    "maint()": [of("")],
    "maint_retry_events()": [of("")],
    "maint_rotate_ledger()": [of("")],
    "maint_rotate_tables_step1(text)": [of("'q'")],
    "maint_rotate_tables_step2()": [of("")],
    # Dead letters
    "dlq_inspect(text,integer)": [of("'q'")],
    "dlq_replay(bigint)": [of("{dead}")],
    "dlq_replay_all(text)": [of("'q'")],
    "dlq_purge(text,interval)": [of("'q', '0'")],
    # Information
    "get_queue_info()": [of("")],
    "get_queue_info(text)": [of("'q'")],
    "get_consumer_info()": [of("")],
    "get_consumer_info(text)": [of("'q'")],
    "get_consumer_info(text,text)": [of("'q', 'c'")],
    "get_queue_wait(text)": [of("'q'")],
    "get_consumer_wait(text,text)": [of("'q', 'c'")],
    "get_batch_info(bigint)": [of("{c_batch}")],
    "version()": [of("")],
}


def statement(signature: str, call: Call, facts: dict[str, object]) -> str:
    """Return the call as SQL, with the facts of the situation filled in."""
    text = call.statement.format(**facts)
    if text.startswith("insert"):
        return text
    return f"select * from pgque.{signature.partition('(')[0]}({text})"


def every_call() -> dict[str, tuple[str, Call]]:
    """Return all calls by name: the signature, plus the arguments if it has several calls."""
    return {
        f"{signature} of {call.statement}" if len(calls) > 1 else signature: (signature, call)
        for signature, calls in CALLS.items()
        for call in calls
    }
