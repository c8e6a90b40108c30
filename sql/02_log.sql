-- The log: one parent table per queue with children _0, _1, _2, written in turn.
--
-- Invariant: an event is written with the id of its top-level transaction, and that id is assigned
-- before its ev_id is taken. Hence a transaction that got its id after a tick has only ids above the
-- tick's tick_seq_before. Readers go through the parent, since a producer whose snapshot is older
-- than a rotation writes to the child before. What is truncated, and when, is in 13_rotate.sql.

create or replace function pgque._queue(queue text)
returns pgque.queue
language plpgsql stable
as $$
declare
    q pgque.queue;
begin
    select * into q
    from pgque.queue t
    where t.queue_name = _queue.queue;
    if not found then
        raise exception 'queue not found: %', coalesce(queue, '<NULL>')
            using errcode = 'PQ001', hint = 'Create it with pgque.create_queue(queue).';
    end if;
    return q;
end
$$;
comment on function pgque._queue(text) is 'The queue of that name; PQ001 where there is none.';

create or replace function pgque._need_read_committed(what text)
returns void
language plpgsql
as $$
begin
    if pgque._isolated_from_commits() then
        raise exception '% needs a READ COMMITTED transaction, this one is %',
            what, upper(current_setting('transaction_isolation'))
            using errcode = 'PQ013', hint = 'Call it in a transaction of its own.';
    end if;
end
$$;
comment on function pgque._need_read_committed(text) is
    'PQ013 where the transaction''s snapshot may be older than what the call decides upon.';

create or replace function pgque._from_now(span interval)
returns timestamptz
language sql volatile
as $$
    select case
        when span > interval '200000 years' then 'infinity'
        when span < interval '-6000 years' then '-infinity'
        else clock_timestamp() + span
    end
$$;
comment on function pgque._from_now(interval) is
    'The time so long after now, infinity or -infinity where PostgreSQL has no such time: an interval is never an error.';

create or replace function pgque._ago(span interval)
returns timestamptz
language sql volatile
as $$
    select case
        when span > interval '6000 years' then '-infinity'
        when span < interval '-200000 years' then 'infinity'
        else clock_timestamp() - span
    end
$$;
comment on function pgque._ago(interval) is 'The time so long before now, as _from_now.';

create or replace function pgque._is_past(at timestamptz, span interval)
returns boolean
language sql volatile
as $$
    select not (at > pgque._ago(span) and at <= clock_timestamp())
$$;
comment on function pgque._is_past(timestamptz, interval) is
    'Whether a time lies at least so long back, or in the future: then the clock was set back, and for how long it has been is '
    'not known.';

create or replace function pgque._is_far(at timestamptz, span interval)
returns boolean
language sql volatile
as $$
    select at <= pgque._ago(span) or at >= pgque._from_now(span)
$$;
comment on function pgque._is_far(timestamptz, interval) is
    'Whether a time is at least so far from now, in either direction: a clock that is set back by a moment makes nothing old.';

-- Set-up

create or replace function pgque._grant_log(queue_id int)
returns void
language plpgsql
as $$
begin
    execute format('grant select on pgque.event_%s, pgque.event_%1$s_0, pgque.event_%1$s_1, pgque.event_%1$s_2 to pgque_reader', queue_id);
end
$$;
comment on function pgque._grant_log(int) is 'Lets pgque_reader read the tables of a log.';

create or replace function pgque._make_put_back_counter(queue_id int)
returns void
language plpgsql
as $$
declare
    counter text := format('pgque.event_%s_put_back', queue_id);
begin
    if to_regclass(counter) is null then
        execute format('create sequence %s', counter);
        execute format('comment on sequence %s is %L', counter, 'How many ids of the queue were used for redeliveries.');
        execute format('revoke all on sequence %s from public', counter);
    end if;
end
$$;
comment on function pgque._make_put_back_counter(int) is
    'Makes the sequence whose last value is the number of redeliveries that were put into a queue''s log.';

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
    -- One of them for each row, since each costs a send time and WAL.
    execute format('create index event_%s_txid on %s (ev_txid, ev_id) where ev_owner is null', queue_id, log);
    execute format('create index event_%s_owner on %s (ev_owner, ev_txid, ev_id) where ev_owner is not null', queue_id, log);
    -- A repair (24_repair.sql) deletes and renumbers, even if the tables are published. Inserts cost the same.
    execute format('alter table %s replica identity full', log);
    for child in 0 .. 2 loop
        execute format('create table %s_%s (like %1$s including all)', log, child);
        execute format('alter table %s_%s inherit %1$s', log, child);
        execute format('revoke all on %s_%s from public', log, child);
        execute format('comment on table %s_%s is %L', log, child, 'A child of the log ' || log || '.');
        -- Rows are inserted and truncated, so there is nothing to vacuum but hint bits.
        execute format('alter table %s_%s set (autovacuum_vacuum_insert_threshold = -1)', log, child);
        execute format('alter table %s_%s replica identity full', log, child);
    end loop;
    -- There are rows in the children alone. Where the planner knows it, it leaves the parent out.
    execute format('alter table %s add constraint only_in_children check (ev_txid is null) no inherit', log);
    execute format('comment on table %s is %L', log, 'The log of a queue: see 02_log.sql.');
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
    'Makes the tables of a queue''s log. A function of its own, so that who waited for an upgrade makes the new kind.';

do $$
begin
    perform pgque._make_put_back_counter(q.queue_id) from pgque.queue q; -- of queues that were made without one
end
$$;

create or replace function pgque.create_queue(queue text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    id int;
    log text;
begin
    if coalesce(queue, '') = '' then
        raise exception 'queue name must not be empty' using errcode = '22023';
    elsif octet_length(queue) > 57 then
        raise exception 'queue name too long: % bytes (max 57)', octet_length(queue) using errcode = '22023';
    end if;
    -- A drop that is under way is waited for; one that is newer than the snapshot is a 40001.
    perform from pgque.queue q where q.queue_name = create_queue.queue for key share;
    if found then
        return 0;
    end if;
    loop
        id := nextval('pgque.queue_queue_id_seq');
        log := 'pgque.event_' || id;
        -- Taken, if the sequence or the rows of pgque.queue were not restored.
        exit when to_regclass(log) is null and not exists (select from pgque.queue q where q.queue_id = id);
    end loop;
    -- Two creators of one name: the second waits for the first's commit here.
    insert into pgque.queue (queue_id, queue_name, queue_data_pfx, queue_event_seq)
    values (id, create_queue.queue, log, log || '_id_seq')
    on conflict on constraint queue_queue_name_key do nothing;
    if not found then
        return 0;
    end if;
    perform pgque._make_log(id);
    perform pgque._make_history_sequence(id, 1);
    perform pgque._make_log_functions(id);
    perform pgque._make_append();
    perform pgque._insert_first_tick(id);
    return 1;
end
$$;
comment on function pgque.create_queue(text) is
    'Makes the queue, its log and its first tick: 1; 0 where it exists. 22023 for an empty name or more than 57 bytes.';

create or replace function pgque.create_queue(queue text, options jsonb)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    setting record;
begin
    if jsonb_typeof(options) <> 'object' then
        raise exception 'options must be a JSON object, not %', jsonb_typeof(options) using errcode = '22023';
    end if;
    if pgque.create_queue(queue) = 0 then
        return 0;
    end if;
    for setting in select o.key, o.value from jsonb_each_text(options) o loop
        perform pgque.set_queue_config(queue, setting.key, setting.value);
    end loop;
    return 1;
end
$$;
comment on function pgque.create_queue(text, jsonb) is
    'create_queue with settings of set_queue_config: 1; 0 if it exists, and its settings stay. 22023 for a wrong option: nothing is made.';

create or replace function pgque.drop_queue(queue text, force boolean)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
begin
    -- Waits for subscribers that are being added: their foreign key locks the queue's row.
    perform from pgque.queue t where t.queue_id = q.queue_id for update;
    if not found then
        raise exception 'queue not found: %', queue using errcode = 'PQ001';
    end if;
    if not coalesce(force, false) and exists (select from pgque.subscriber where sub_queue = q.queue_id) then
        raise exception 'cannot drop queue, consumers still attached'
            using errcode = 'PQ009',
                detail = format('queue: %s', queue),
                hint = 'Unsubscribe them first, or call pgque.drop_queue(queue, true).';
    end if;
    delete from pgque.subscriber where sub_queue = q.queue_id and sub_group is not null;
    delete from pgque.subscriber where sub_queue = q.queue_id;
    -- After the subscribers, for each of them may have been about to nack until it was gone.
    delete from pgque.retry_queue where ev_queue = q.queue_id;
    delete from pgque.dead_letter where dl_queue_id = q.queue_id;
    delete from pgque.queue where queue_id = q.queue_id;
    -- Ticks and cursors of the queue go with the next rotation of the ledger.
    -- In the order of locks in a send: the name, the log, its sequence. Its ticker looks again too, and tickers
    -- of all queues read sequences, so that is locked last.
    perform pg_advisory_xact_lock(pgque._name_key(q.queue_name));
    perform pg_advisory_xact_lock(1885827446, q.queue_id);
    execute format('drop table %s cascade', q.queue_data_pfx);
    perform pgque._drop_log_functions(q.queue_id);
    execute format('drop sequence %s', q.queue_event_seq);
    execute format('drop sequence if exists %s', pgque._force_sequence(q));
    execute format('drop sequence if exists %s', pgque._history_sequence(q.queue_id));
    execute format('drop sequence if exists %s_put_back', q.queue_data_pfx);
    return 1;
end
$$;
comment on function pgque.drop_queue(text, boolean) is
    'Drops the queue with its log, retries and dead letters. Without force PQ009 while anybody is subscribed.';

create or replace function pgque.drop_queue(queue text)
returns int
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select pgque.drop_queue(queue, false)
$$;
comment on function pgque.drop_queue(text) is 'drop_queue(queue, false).';

create or replace function pgque.set_queue_config(queue text, param text, value text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
    settings constant text[] := '{ticker_max_count,ticker_max_lag,ticker_idle_period,ticker_paused,rotation_period,'
        'external_ticker,max_retries,disable_insert}';
    longest constant numeric := extract(epoch from interval '1000 years');
    column_type text;
    number_value numeric;
begin
    if param is null or param <> all (settings) then
        raise exception 'unknown queue setting: %', coalesce(param, '<NULL>')
            using errcode = '22023', hint = 'Settings: ' || array_to_string(settings, ', ') || '.';
    end if;
    select format_type(a.atttypid, null) into column_type
    from pg_attribute a
    where a.attrelid = 'pgque.queue'::regclass
        and a.attname = 'queue_' || param;
    if value is null then
        execute format('update pgque.queue set %I = default where queue_id = $1', 'queue_' || param) using q.queue_id;
        return 1;
    end if;
    begin
        if column_type = 'interval' then
            number_value := extract(epoch from value::interval);
        elsif column_type = 'boolean' then
            perform value::boolean;
        else
            number_value := value::int;
        end if;
    exception
        when data_exception then
            raise exception '% must be of type %, not %', param, column_type, quote_literal(value)
                using errcode = '22023';
    end;
    if column_type = 'interval' and number_value > longest then -- infinity is
        raise exception '% must be at most 1000 years', param using errcode = '22023';
    elsif param = 'ticker_max_count' and number_value < 1 then
        raise exception '% must be >= 1', param using errcode = '22023';
    elsif param = 'rotation_period' and number_value <= 0 then
        raise exception '% must be > 0', param using errcode = '22023';
    elsif number_value < 0 then
        raise exception '% must be >= 0', param using errcode = '22023';
    end if;
    execute format('update pgque.queue set %I = $2::%s where queue_id = $1', 'queue_' || param, column_type)
        using q.queue_id, value;
    return 1;
end
$$;
comment on function pgque.set_queue_config(text, text, text) is
    'Changes one setting of a queue; NULL restores its default. 22023 for an unknown setting or a bad value.';

-- Writing
--
-- A send shares a lock on the queue's name before it looks the queue up, and drop_queue takes that lock for itself
-- before it drops the log. Any session may take an advisory lock, so a send never waits for it: if it is not to be
-- had, the send locks the queue's row instead. drop_queue has locked the row, and only those with rights on the
-- table could.

create or replace function pgque._name_key(queue_name text)
returns bigint
language sql immutable
as $$
    select hashtextextended(queue_name, 1885827449)
$$;
comment on function pgque._name_key(text) is
    'The key of the advisory lock on the name of a queue: 64 bits, so that no two names have one.';

create or replace function pgque._has_log(queue_id int)
returns boolean
language sql volatile
as $$
    -- Not to_regclass alone: a transaction that locks nothing new is not told what was dropped.
    select pg_relation_size(to_regclass('pgque.event_' || queue_id)) is not null
$$;
comment on function pgque._has_log(int) is
    'Whether the log of a queue is there now, though the queue may be there for this transaction''s snapshot alone.';

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
    'The queue, if it takes events, locked against drop_queue: else PQ001, PQ006, or 40001 if the snapshot is older than its end.';

create or replace function pgque._wake_ticker()
returns void
language plpgsql
as $$
begin
    -- A transaction that has notified cannot be prepared. Where some may want to be, the ticker's slow
    -- look has to find the event.
    if current_setting('max_prepared_transactions') <> '0' then
        return;
    end if;
    -- Lowered first, so that of many sends only those in this instant notify.
    perform setval('pgque.wake_flag', 1);
    perform pg_notify('pgque_ticker', '');
end
$$;
comment on function pgque._wake_ticker() is
    'Lowers the flag of a sleeping ticker and notifies it when this transaction commits; nothing where transactions may be prepared.';

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
    'insert_event for members of pgque_writer, on any queue.';

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
    'Sends one event with its four extra fields in the caller''s transaction: its id.';

create or replace function pgque.insert_event(queue_name text, ev_type text, ev_data text)
returns bigint
language sql
as $$
    select pgque.insert_event(queue_name, ev_type, ev_data, null, null, null, null)
$$;
comment on function pgque.insert_event(text, text, text) is 'Sends one event in the caller''s transaction: its id.';
