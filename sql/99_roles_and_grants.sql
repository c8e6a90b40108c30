-- Grants to the four roles.
--
-- Invariant: PUBLIC gets nothing. Writer and reader are siblings; the admin is a member of both and may call everything
-- except uninstall, which is for the owner. Members of pgque_user alone can do nothing without a grant for a queue. Names that
-- begin with _ are internal: they run with the rights of the function that calls them, or they are the workers of one role.
-- Capture triggers run with the rights of the role that changes the table, so writers may call what these triggers call.

revoke all on schema pgque from public;

revoke all on all tables in schema pgque from public;

revoke all on all sequences in schema pgque from public;

revoke all on all functions in schema pgque from public;

revoke all on all procedures in schema pgque from public;

do $$
declare
    row_type regtype;
begin
    for row_type in
        select t.oid
        from pg_catalog.pg_type t
        where t.typnamespace = 'pgque'::regnamespace
            and t.typtype = 'c'
    loop
        execute format('revoke all on type %s from public', row_type);
    end loop;
end
$$;

grant usage on schema pgque to pgque_writer, pgque_reader, pgque_admin, pgque_user;

grant usage on type pgque.message to pgque_reader, pgque_user;

grant select on
    pgque.config,
    pgque.queue,
    pgque.consumer,
    pgque.subscriber,
    pgque.subscription,
    pgque.cursor,
    pgque.cursor_0,
    pgque.cursor_1,
    pgque.tick,
    pgque.tick_0,
    pgque.tick_1,
    pgque.subscriber_role,
    pgque.restore_report,
    pgque.retry_queue,
    pgque.dead_letter
to pgque_reader;

grant select on pgque.config to pgque_writer, pgque_user;

grant select, update (called, arguments, texts) on pgque._call to pgque_user;

-- Functions that run with the caller's rights and check what the caller may do, and the capture triggers.
grant execute on function
    pgque.send(text, text),
    pgque.send(text, json),
    pgque.send(text, jsonb),
    pgque.send(text, text, text),
    pgque.send(text, text, json),
    pgque.send(text, text, jsonb),
    pgque.send_batch(text, text),
    pgque.send_batch(text, text[]),
    pgque.send_batch(text, json[]),
    pgque.send_batch(text, jsonb[]),
    pgque.send_batch(text, text, text),
    pgque.send_batch(text, text, text[]),
    pgque.send_batch(text, text, json[]),
    pgque.send_batch(text, text, jsonb[]),
    pgque.send_batch(text, text, text[], text),
    pgque.insert_event(text, text, text),
    pgque.insert_event(text, text, text, text, text, text, text),
    pgque._as_array(text),
    pgque._send_batch(text, text, text[]),
    pgque._send_batch(text, text, text[], text),
    pgque.jsontriga(),
    pgque.logutriga(),
    pgque.sqltriga(),
    pgque._capture(text, text[], text, text, text, oid, text, text, record, record),
    pgque._capture_options(text[]),
    pgque._capture_table(oid, text, jsonb),
    pgque._capture_values(record, text[], text),
    pgque._capture_urlencode(text),
    pgque._capture_row(text, record, text[], text),
    pgque._capture_statement(text[], text[], text[], text[], text[]),
    pgque.version()
to pgque_writer, pgque_user;

grant execute on function
    pgque._insert_event(text, text, text, text, text, text, text),
    pgque._append_batch(text, text, text[]),
    pgque._append_batch(text, text, text[], text),
    pgque.dlq_replay(bigint),
    pgque.dlq_replay_all(text)
to pgque_writer;

grant execute on function
    pgque.subscribe(text, text),
    pgque.unsubscribe(text, text),
    pgque.receive(text, text, int),
    pgque.receive_merged(text, text, int),
    pgque.ack(bigint),
    pgque.ack_or_fail(bigint),
    pgque.ack_part(bigint, bigint[]),
    pgque.nack(bigint, pgque.message, interval, text),
    pgque.nack_many(bigint, bigint[], interval, text[]),
    pgque.seek(text, text, bigint),
    pgque.seek(text, text, timestamptz),
    pgque.subscribe_subconsumer(text, text, text, boolean),
    pgque.unsubscribe_subconsumer(text, text, text, int),
    pgque.receive_coop(text, text, text, int, interval),
    pgque.receive_coop_merged(text, text, text, int, interval),
    pgque.touch_subconsumer(text, text, text),
    pgque.get_queue_info(),
    pgque.get_queue_info(text),
    pgque.get_consumer_info(),
    pgque.get_consumer_info(text),
    pgque.get_consumer_info(text, text),
    pgque.get_queue_wait(text),
    pgque.get_consumer_wait(text, text),
    pgque._seek_to(text, text, bigint, timestamptz),
    pgque.version()
to pgque_reader, pgque_user;

grant execute on function
    pgque.register_consumer(text, text),
    pgque.register_consumer_at(text, text, bigint),
    pgque.unregister_consumer(text, text),
    pgque.finish_batch(bigint),
    pgque.next_batch(text, text),
    pgque.next_batch_info(text, text),
    pgque.next_batch_custom(text, text, interval, int, interval),
    pgque.get_batch_events(bigint),
    pgque.event_retry(bigint, bigint, timestamptz),
    pgque.event_retry(bigint, bigint, int),
    pgque.register_subconsumer(text, text, text, boolean),
    pgque.unregister_subconsumer(text, text, text, int),
    pgque.next_batch(text, text, text, interval),
    pgque.next_batch_custom(text, text, text, interval, int, interval, interval),
    pgque.dlq_inspect(text, int),
    pgque.get_batch_info(bigint),
    pgque._open_batch(text, text, int, boolean, bigint),
    pgque._messages_sql(pgque.span),
    pgque._share(text, text, text, int, interval, boolean),
    pgque._ack_or_fail(bigint),
    pgque._ack_part(bigint, bigint[]),
    pgque._nack(bigint, bigint, interval, text),
    pgque._nack_many(bigint, bigint[], interval, text[]),
    pgque._seek(text, text, bigint, timestamptz),
    pgque._touch_subconsumer(text, text, text),
    pgque._queue_info(text),
    pgque._consumer_info(text, text),
    pgque._queue_wait(text),
    pgque._consumer_wait(text, text)
to pgque_reader;

grant execute on function pgque._ask(text, text[], text[]) to pgque_user;

-- get_batch_cursor runs with the caller's rights and reads the ledger.
grant select on sequence pgque.ledger_child to pgque_admin;

grant execute on all functions in schema pgque to pgque_admin;

grant execute on all procedures in schema pgque to pgque_admin;

revoke execute on function pgque.uninstall() from pgque_admin;

-- Row security without a policy hides all rows from the roles to which the tables were granted above.
do $$
begin
    perform pgque._turn_off_row_security(array(
        select c.oid::regclass
        from pg_catalog.pg_class c
        where c.relnamespace = 'pgque'::regnamespace
            and c.relkind = 'r'
            and c.relrowsecurity
            and not exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid)
    ));
end
$$;

-- Objects of a queue have the same grants whether the queue was created before this file ran or after it, or was
-- restored without grants (pg_dump --no-acl).
do $$
declare
    function regprocedure;
begin
    perform pgque._grant_log(q.queue_id)
    from pgque.queue q
    where to_regclass(q.queue_data_pfx) is not null;
    for function in
        select p.oid
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pgque'::regnamespace
            and p.proname ~ '^_event_[0-9]+_'
    loop
        execute format('revoke all on function %s from pgque_admin', function);
    end loop;
end
$$;
