-- The log: one parent table per queue with the children _0, _1 and _2, written in turn.
--
-- Invariant: an event carries the id of its top-level transaction, and that id is assigned before the ev_id is taken.
-- Hence a transaction that got its id after a tick has only event ids above the tick's tick_seq_before. Readers use the
-- parent, because a producer whose snapshot is older than a rotation writes to the previous child. The file rotate
-- decides when a child is truncated.

create or replace function pgque._grant_log(queue_id int)
returns void
language plpgsql
as $$
begin
    execute format('grant select on pgque.event_%s, pgque.event_%1$s_0, pgque.event_%1$s_1, pgque.event_%1$s_2 to pgque_reader', queue_id);
end
$$;
comment on function pgque._grant_log(int) is 'Grants pgque_reader SELECT on the tables of a log.';

create or replace function pgque._make_put_back_counter(queue_id int)
returns void
language plpgsql
as $$
declare
    counter text := format('pgque.event_%s_put_back', queue_id);
begin
    if to_regclass(counter) is null then
        execute format('create sequence %s', counter);
        execute format('comment on sequence %s is %L', counter, 'The number of ids used for redeliveries.');
        execute format('revoke all on sequence %s from public', counter);
    end if;
end
$$;
comment on function pgque._make_put_back_counter(int) is
    'Creates the sequence whose last value is the number of redeliveries put into a queue''s log, unless it exists.';

create or replace function pgque._make_force_sequence(log text)
returns void
language plpgsql
as $$
begin
    execute format('create sequence if not exists %s_force_seq', log);
    execute format('revoke all on sequence %s_force_seq from public', log);
    execute format('comment on sequence %s_force_seq is %L', log, 'How often a tick of ' || log || ' was forced.');
end
$$;
comment on function pgque._make_force_sequence(text) is
    'Creates the sequence that force_next_tick increments for a log, unless it exists.';

-- Queues of an earlier version may lack this sequence.
do $$
declare
    q pgque.queue;
begin
    for q in select * from pgque.queue order by queue_id loop
        if to_regclass(pgque._force_sequence(q)) is null then
            perform pgque._make_force_sequence(q.queue_data_pfx);
        end if;
    end loop;
end
$$;

create or replace function pgque._make_log(queue_id int)
returns void
language plpgsql
as $$
declare
    log text := 'pgque.event_' || queue_id;
    row_type text;
begin
    execute format('create sequence %s_id_seq', log);
    perform pgque._make_put_back_counter(queue_id);
    execute format(
        'create table %s (
            ev_id bigint not null,
            ev_time timestamptz not null,
            ev_txid xid8 not null,
            ev_owner int,
            ev_retry int,
            ev_type text,
            ev_data text,
            ev_extra1 text,
            ev_extra2 text,
            ev_extra3 text,
            ev_extra4 text
        )', log);
    -- Each row is in one of the two indexes, because an index costs a send time and WAL.
    execute format('create index event_%s_txid on %s (ev_txid, ev_id) where ev_owner is null', queue_id, log);
    execute format('create index event_%s_owner on %s (ev_owner, ev_txid, ev_id) where ev_owner is not null', queue_id, log);
    -- Lets repair delete and renumber rows even if the tables are published. Inserts cost the same.
    execute format('alter table %s replica identity full', log);
    for child in 0 .. 2 loop
        execute format('create table %s_%s (like %1$s including all)', log, child);
        execute format('alter table %s_%s inherit %1$s', log, child);
        execute format('revoke all on %s_%s from public', log, child);
        execute format('comment on table %s_%s is %L', log, child, 'A child of the log ' || log || '.');
        -- Rows are only inserted and truncated, so a vacuum would set hint bits and nothing else.
        execute format('alter table %s_%s set (autovacuum_vacuum_insert_threshold = -1)', log, child);
        execute format('alter table %s_%s replica identity full', log, child);
    end loop;
    -- Only the children hold rows. With this constraint the planner leaves out the parent.
    execute format('alter table %s add constraint only_in_children check (ev_txid is null) no inherit', log);
    execute format('comment on table %s is %L', log, 'The log of a queue.');
    perform pgque._make_force_sequence(log);
    execute format('comment on sequence %s_id_seq is %L', log, 'The ids of events in ' || log || '.');
    execute format('revoke all on %s from public', log);
    execute format('revoke all on sequence %s_id_seq from public', log);
    foreach row_type in array array[log, log || '_0', log || '_1', log || '_2'] loop
        execute format('revoke all on type %s from public', row_type);
    end loop;
    perform pgque._grant_log(queue_id);
    perform pgque._turn_off_row_security(array[log, log || '_0', log || '_1', log || '_2']::regclass[]);
end
$$;
comment on function pgque._make_log(int) is
    'Creates the tables of a queue''s log. Separate, so that a create_queue that waited out an upgrade uses the new '
    'definition.';

do $$
begin
    perform pgque._make_put_back_counter(q.queue_id) from pgque.queue q; -- queues that were created without it
end
$$;

-- Writing
--
-- A send shares a lock on the queue's name before it looks up the queue, and drop_queue takes that lock exclusively
-- before it drops the log. Any session may take an advisory lock, so a send never waits for it. If the lock is not
-- available, the send locks the queue's row instead: drop_queue has locked it too, and only roles with rights on the
-- table can.
create or replace function pgque._name_key(queue_name text)
returns bigint
language sql immutable
as $$
    select hashtextextended(queue_name, 1885827449)
$$;
comment on function pgque._name_key(text) is
    'Returns the key of the advisory lock on the name of a queue. It has 64 bits, so that no two names share a key.';

create or replace function pgque._has_log(queue_id int)
returns boolean
language sql volatile
as $$
    -- to_regclass is not enough: a transaction that takes no new lock does not learn that the table was dropped.
    select pg_relation_size(to_regclass('pgque.event_' || queue_id)) is not null
$$;
comment on function pgque._has_log(int) is
    'Returns true if the log of a queue exists now. The queue itself may exist only in the caller''s snapshot.';

create or replace function pgque._need_writable(queue_name text)
returns pgque.queue
language plpgsql
as $$
declare
    q pgque.queue;
begin
    if not pg_try_advisory_xact_lock_shared(pgque._name_key(queue_name)) then
        perform from pgque.queue t where t.queue_name = _need_writable.queue_name for key share;
    end if;
    q := pgque._queue(queue_name);
    if pgque._isolated_from_commits() and not pgque._has_log(q.queue_id) then
        raise exception 'could not serialize access: queue % was dropped after this transaction''s snapshot', queue_name
            using errcode = 'serialization_failure', hint = 'Retry the transaction.';
    elsif q.queue_disable_insert then
        raise exception 'Insert into queue disallowed: %', queue_name
            using errcode = 'PQ006',
                hint = format('Allow it with pgque.set_queue_config(%L, ''disable_insert'', ''false'').', queue_name);
    end if;
    return q;
end
$$;
comment on function pgque._need_writable(text) is
    'Returns the queue, locked against drop_queue. Raises PQ001 if it does not exist, PQ006 if it takes no events, '
    'and 40001 if it was dropped after the caller''s snapshot.';

create or replace function pgque._wake_ticker()
returns void
language plpgsql
as $$
begin
    -- A transaction that has notified cannot be prepared. If prepared transactions are allowed, the ticker finds the
    -- event by polling.
    if current_setting('max_prepared_transactions') <> '0' then
        return;
    end if;
    -- The flag is lowered first, so that of many sends only those at this instant notify.
    perform setval('pgque.wake_flag', 1);
    perform pg_notify('pgque_ticker', '');
end
$$;
comment on function pgque._wake_ticker() is
    'Lowers the flag of a sleeping ticker and notifies it when the caller''s transaction commits. Does nothing if '
    'prepared transactions are allowed.';

create or replace function pgque._insert_event(
    queue_name text, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text
)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    queue_id int;
    child int;
    unattended boolean;
    id bigint;
begin
    if pg_try_advisory_xact_lock_shared(pgque._name_key(queue_name)) then
        select t.queue_id, t.queue_cur_table, t.queue_ticker_paused or t.queue_external_ticker
        into queue_id, child, unattended
        from pgque.queue t
        where t.queue_name = _insert_event.queue_name
            and not t.queue_disable_insert;
    end if;
    if not found or (pgque._isolated_from_commits() and not pgque._has_log(queue_id)) then
        select w.queue_id, w.queue_cur_table, w.queue_ticker_paused or w.queue_external_ticker
        into queue_id, child, unattended
        from pgque._need_writable(queue_name) w; -- raises, or locks the row
    end if;
    id := pgque._append(queue_id, child, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4);
    if not unattended and pg_sequence_last_value('pgque.wake_flag') = 2 then
        perform pgque._wake_ticker();
    end if;
    return id;
end
$$;
comment on function pgque._insert_event(text, text, text, text, text, text, text) is
    'Does the work of insert_event on any queue, for members of pgque_writer.';

create or replace function pgque.insert_event(
    queue_name text, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text
)
returns bigint
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege(
        'pgque._insert_event(text, text, text, text, text, text, text)'::pg_catalog.regprocedure, 'execute')
    then
        return pgque._insert_event(queue_name, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4);
    end if;
    return (pgque._ask(
        'insert_event', array[queue_name, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4])).number;
end
$$;
comment on function pgque.insert_event(text, text, text, text, text, text, text) is
    'Sends one event with its four extra fields in the caller''s transaction and returns its id. Raises PQ001 if the '
    'queue does not exist and PQ006 if it takes no events.';

create or replace function pgque.insert_event(queue_name text, ev_type text, ev_data text)
returns bigint
language sql
as $$
    select pgque.insert_event(queue_name, ev_type, ev_data, null, null, null, null)
$$;
comment on function pgque.insert_event(text, text, text) is
    'Sends one event in the caller''s transaction and returns its id. Raises PQ001 if the queue does not exist and '
    'PQ006 if it takes no events.';

create or replace function pgque._force_sequence(q pgque.queue)
returns text
language sql immutable
as $$
    select q.queue_data_pfx || '_force_seq'
$$;
comment on function pgque._force_sequence(pgque.queue) is
    'Returns the name of the sequence that force_next_tick increments.';

create or replace function pgque._history_sequence(queue_id int)
returns text
language sql immutable
as $$
    select format('pgque.event_%s_history_seq', queue_id)
$$;
comment on function pgque._history_sequence(int) is
    'Returns the name of the sequence whose value is the oldest tick after which a log has lost no event.';

create or replace function pgque._make_history_sequence(queue_id int, history_tick bigint)
returns void
language plpgsql
as $$
declare
    name text := pgque._history_sequence(queue_id);
begin
    if to_regclass(name) is null then
        execute format('create sequence %s minvalue 0', name);
        execute format('comment on sequence %s is %L', name,
            'A non-transactional copy of queue_history_tick: it shows what was truncated after a dump''s snapshot.');
        execute format('revoke all on sequence %s from public', name);
        perform setval(name, history_tick);
    end if;
end
$$;
comment on function pgque._make_history_sequence(int, bigint) is 'Creates a log''s history sequence unless it exists.';
