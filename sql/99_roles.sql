-- Who may do what: three roles, and every grant in one place.
--
-- Invariant: nothing here is for PUBLIC. Writer and reader are siblings, the admin is a member of
-- both and may call everything but uninstall, which is for the owner. Names that begin with _ are
-- internal: they run with the rights of the function that calls them. Capture triggers run with
-- the rights of whoever changes the table, so writers may call what these call.

do $$
declare
    role_name text;
begin
    foreach role_name in array array['pgque_writer', 'pgque_reader', 'pgque_admin'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
            begin
                execute format('create role %I nologin', role_name);
            exception
                when duplicate_object or unique_violation then
                    null; -- an installer in another database of this cluster was faster
                when insufficient_privilege then
                    raise exception 'role % is missing and % may not create roles', role_name, current_user
                        using errcode = 'insufficient_privilege',
                            hint = 'Let an administrator run: create role pgque_writer; create role pgque_reader; '
                                'create role pgque_admin; grant pgque_writer, pgque_reader to pgque_admin;';
            end;
        end if;
    end loop;
    foreach role_name in array array['pgque_writer', 'pgque_reader'] loop
        if not pg_has_role('pgque_admin', role_name, 'member') then
            begin
                execute format('grant %I to pgque_admin', role_name);
            exception
                when insufficient_privilege then
                    raise exception 'pgque_admin is not a member of % and % may not change that', role_name, current_user
                        using errcode = 'insufficient_privilege',
                            hint = 'Let an administrator run: grant pgque_writer, pgque_reader to pgque_admin;';
            end;
        end if;
    end loop;
end
$$;

revoke all on schema pgque from public;
revoke all on all tables in schema pgque from public;
revoke all on all sequences in schema pgque from public;
revoke all on all functions in schema pgque from public;
revoke all on all procedures in schema pgque from public;
revoke all on type pgque.message, pgque.place, pgque.span from public;

grant usage on schema pgque to pgque_writer, pgque_reader, pgque_admin;
grant usage on type pgque.message to pgque_reader;

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
    pgque.retry_queue,
    pgque.dead_letter
to pgque_reader;
grant select on pgque.config to pgque_writer;

grant execute on function
    pgque.send(text, text),
    pgque.send(text, jsonb),
    pgque.send(text, text, text),
    pgque.send(text, text, jsonb),
    pgque.send_batch(text, text[]),
    pgque.send_batch(text, jsonb[]),
    pgque.send_batch(text, text, text[]),
    pgque.send_batch(text, text, jsonb[]),
    pgque.insert_event(text, text, text),
    pgque.insert_event(text, text, text, text, text, text, text),
    pgque.dlq_replay(bigint),
    pgque.dlq_replay_all(text),
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
to pgque_writer;

grant execute on function
    pgque.subscribe(text, text),
    pgque.unsubscribe(text, text),
    pgque.register_consumer(text, text),
    pgque.register_consumer_at(text, text, bigint),
    pgque.unregister_consumer(text, text),
    pgque.receive(text, text, int),
    pgque.receive_merged(text, text, int),
    pgque.ack(bigint),
    pgque.ack_or_fail(bigint),
    pgque.ack_part(bigint, bigint[]),
    pgque.finish_batch(bigint),
    pgque.nack(bigint, pgque.message, interval, text),
    pgque.nack_many(bigint, bigint[], interval, text[]),
    pgque.seek(text, text, bigint),
    pgque.seek(text, text, timestamptz),
    pgque.next_batch(text, text),
    pgque.next_batch_info(text, text),
    pgque.next_batch_custom(text, text, interval, int, interval),
    pgque.get_batch_events(bigint),
    pgque.event_retry(bigint, bigint, timestamptz),
    pgque.event_retry(bigint, bigint, int),
    pgque.register_subconsumer(text, text, text, boolean),
    pgque.subscribe_subconsumer(text, text, text, boolean),
    pgque.unregister_subconsumer(text, text, text, int),
    pgque.unsubscribe_subconsumer(text, text, text, int),
    pgque.receive_coop(text, text, text, int, interval),
    pgque.receive_coop_merged(text, text, text, int, interval),
    pgque.next_batch(text, text, text, interval),
    pgque.next_batch_custom(text, text, text, interval, int, interval, interval),
    pgque.touch_subconsumer(text, text, text),
    pgque.dlq_inspect(text, int),
    pgque.get_queue_info(),
    pgque.get_queue_info(text),
    pgque.get_consumer_info(),
    pgque.get_consumer_info(text),
    pgque.get_consumer_info(text, text),
    pgque.get_batch_info(bigint),
    pgque.version()
to pgque_reader;

grant select on sequence pgque.ledger_child to pgque_admin; -- get_batch_cursor runs with the caller's rights
grant execute on all functions in schema pgque to pgque_admin;
grant execute on all procedures in schema pgque to pgque_admin;
revoke execute on function pgque.uninstall() from pgque_admin;

-- A log's own functions are called by others only: as create_queue makes them, nobody is granted them.
do $$
declare
    function regprocedure;
begin
    for function in
        select p.oid
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pgque'::regnamespace
            and p.proname ~ '^_event_[0-9]'
    loop
        execute format('revoke execute on function %s from pgque_admin', function);
    end loop;
end
$$;
