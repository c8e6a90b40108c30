-- Queues: creating, configuring and dropping them.
--
-- Invariant: a queue, its log, its functions and its first tick are created in one transaction and dropped in one. A
-- queue id is never used twice.

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
    -- Waits for a drop in progress. A drop that is newer than the caller's snapshot raises 40001.
    perform from pgque.queue q where q.queue_name = create_queue.queue for key share;
    if found then
        return 0;
    end if;
    loop
        id := nextval('pgque.queue_queue_id_seq');
        log := 'pgque.event_' || id;
        -- The id is taken if the sequence or the rows of pgque.queue were not restored.
        exit when to_regclass(log) is null and not exists (select from pgque.queue q where q.queue_id = id);
    end loop;
    -- If two sessions create the same name, the second one waits here for the first to commit.
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
    'Creates the queue, its log and its first tick and returns 1, or 0 if the queue exists. Raises 22023 for an empty '
    'name or a name of more than 57 bytes.';

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
    if column_type = 'interval' and number_value > longest then -- infinity too
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
    'Changes one setting of a queue and returns 1. NULL restores the default. Raises 22023 for an unknown setting or '
    'a bad value.';

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
    'Creates a queue with settings of set_queue_config and returns 1. If the queue exists, keeps its settings and '
    'returns 0. Raises 22023 for a wrong option and then creates nothing.';

create or replace function pgque.drop_queue(queue text, force boolean)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
begin
    -- Waits for subscribers that are being added, because their foreign key locks the queue's row.
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
    -- Deleted after the subscribers, because each of them could nack until then.
    delete from pgque.retry_queue where ev_queue = q.queue_id;
    delete from pgque.dead_letter where dl_queue_id = q.queue_id;
    delete from pgque.queue where queue_id = q.queue_id;
    -- The next rotation of the ledger removes the queue's ticks and cursors. Locks are taken in the order of a send:
    -- the name, the log, its sequence. The ticker's lock comes before the log, because a ticker reads the queue again
    -- under it. Tickers of all queues read sequences, so the sequences are locked last.
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
    'Drops the queue with its log, retries and dead letters and returns 1. Without force, raises PQ009 while any '
    'consumer is subscribed.';

create or replace function pgque.drop_queue(queue text)
returns int
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select pgque.drop_queue(queue, false)
$$;
comment on function pgque.drop_queue(text) is 'Same as drop_queue(queue, false).';
