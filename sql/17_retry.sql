-- Retries: nack, and the return of events to the log.
--
-- Invariant: nack reads one event and nack_many reads the batch once. Neither moves the position: the batch still has to be
-- acked. An event waits at most once per consumer (primary key of retry_queue). Maintenance puts due events back
-- into the log, for their owner alone, with the same ev_id and ev_time.

create or replace function pgque._retry(e pgque.retry_queue, retry_after timestamptz)
returns int
language plpgsql
as $$
begin
    insert into pgque.retry_queue (
        ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry, ev_type, ev_data,
        ev_extra1, ev_extra2, ev_extra3, ev_extra4
    )
    values (
        retry_after, e.ev_queue, e.ev_id, e.ev_time, e.ev_txid, e.ev_owner, e.ev_retry + 1, e.ev_type, e.ev_data,
        e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
    )
    on conflict (ev_owner, ev_id) do nothing;
    return found::int;
end
$$;
comment on function pgque._retry(pgque.retry_queue, timestamptz) is
    'Adds an event to the retry queue and returns 1, or 0 if it already waits there.';

create or replace function pgque._nack(batch_id bigint, msg_id bigint, retry_after interval, reason text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, true);
    s pgque.subscriber;
    e pgque.retry_queue;
begin
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    e := pgque._batch_event(c, s, msg_id);
    if e.ev_id is null then
        raise exception 'msg_id % not found in batch %', coalesce(msg_id::text, '<NULL>'), batch_id
            using errcode = 'PQ004', hint = 'nack takes a message of the open batch.';
    end if;
    if e.ev_retry < (select q.queue_max_retries from pgque.queue q where q.queue_id = s.sub_queue) then
        perform pgque._retry(e, pgque._from_now(coalesce(retry_after, interval '60 seconds')));
    else
        perform pgque._bury(e, coalesce(reason, format('failed after %s retries', e.ev_retry)));
    end if;
    return 1;
end
$$;
comment on function pgque._nack(bigint, bigint, interval, text) is
    'Does the work of nack in any batch, for members of pgque_reader.';

create or replace function pgque.nack(
    batch_id bigint, msg pgque.message, retry_after interval default '60 seconds', reason text default null
)
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque._nack(bigint, bigint, interval, text)'::pg_catalog.regprocedure, 'execute') then
        return pgque._nack(batch_id, msg.msg_id, retry_after, reason);
    end if;
    return (pgque._ask(
        'nack', array[batch_id::pg_catalog.text, (msg.msg_id)::pg_catalog.text, retry_after::pg_catalog.text, reason])).number::pg_catalog.int4;
end
$$;
comment on function pgque.nack(bigint, pgque.message, interval, text) is
    'Rejects one message of an open batch and returns 1. The message is delivered again after retry_after or, at '
    'max_retries, becomes a dead letter with the first 10,000 characters of reason. Only msg.msg_id is used. The '
    'batch still has to be acked. Raises PQ003 if the batch is not open and PQ004 if the message is not in it.';

create or replace function pgque._nack_many(batch_id bigint, msg_ids bigint[], retry_after interval, reasons text[])
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, true);
    s pgque.subscriber;
    max_retries int;
    retry_at timestamptz := pgque._from_now(coalesce(retry_after, interval '60 seconds'));
    done bigint[];
    missing bigint;
begin
    if msg_ids is null then
        raise exception 'msg_ids must not be null' using errcode = '22023';
    elsif cardinality(reasons) <> cardinality(msg_ids) then
        raise exception 'reasons must have one element for each of msg_ids' using errcode = '22023';
    end if;
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    select q.queue_max_retries into max_retries from pgque.queue q where q.queue_id = s.sub_queue;
    -- Reads the whole batch once and finds the wanted messages by a hash join.
    with wanted as materialized (
        select distinct on (w.msg_id) w.msg_id, w.reason
        from unnest(msg_ids, reasons) as w (msg_id, reason)
        order by w.msg_id
    ),
    event as materialized (
        select distinct on (b.ev_id) b.*, w.reason
        from wanted w
        join pgque._events(pgque._batch_span(c, s)) b on b.ev_id = w.msg_id
        order by b.ev_id, b.ev_retry desc
    ),
    waiting as (
        insert into pgque.retry_queue (
            ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry, ev_type, ev_data,
            ev_extra1, ev_extra2, ev_extra3, ev_extra4
        )
        select
            retry_at, s.sub_queue, ev_id, ev_time, ev_txid, coalesce(s.sub_group, s.sub_id), ev_retry + 1, ev_type, ev_data,
            ev_extra1, ev_extra2, ev_extra3, ev_extra4
        from event
        where ev_retry < max_retries
        on conflict (ev_owner, ev_id) do nothing
    ),
    buried as (
        insert into pgque.dead_letter (
            dl_queue_id, dl_consumer_id, dl_reason, ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data,
            ev_extra1, ev_extra2, ev_extra3, ev_extra4
        )
        select
            s.sub_queue, owner.sub_consumer, coalesce(left(reason, 10000), format('failed after %s retries', ev_retry)),
            ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4
        from event
        cross join pgque.subscriber owner
        where ev_retry >= max_retries
            and owner.sub_id = coalesce(s.sub_group, s.sub_id)
        on conflict (dl_queue_id, dl_consumer_id, ev_id) do nothing
    )
    select array_agg(ev_id)
    into done
    from event;
    if coalesce(cardinality(done), 0) < (select count(distinct w) from unnest(msg_ids) w) then
        select w into missing from unnest(msg_ids) w where w <> all (coalesce(done, '{}')) limit 1;
    end if;
    if missing is not null or exists (select from unnest(msg_ids) w where w is null) then
        raise exception 'msg_id % not found in batch %', coalesce(missing::text, '<NULL>'), batch_id
            using errcode = 'PQ004', hint = 'nack_many takes messages of the open batch.';
    end if;
    return coalesce(cardinality(done), 0);
end
$$;
comment on function pgque._nack_many(bigint, bigint[], interval, text[]) is
    'Does the work of nack_many in any batch, for members of pgque_reader.';

create or replace function pgque.nack_many(
    batch_id bigint, msg_ids bigint[], retry_after interval default '60 seconds', reasons text[] default null
)
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque._nack_many(bigint, bigint[], interval, text[])'::pg_catalog.regprocedure, 'execute') then
        return pgque._nack_many(batch_id, msg_ids, retry_after, reasons);
    end if;
    return (pgque._ask(
        'nack_many', array[batch_id::pg_catalog.text, msg_ids::pg_catalog.text, retry_after::pg_catalog.text], reasons)).number::pg_catalog.int4;
end
$$;
comment on function pgque.nack_many(bigint, bigint[], interval, text[]) is
    'Nacks many messages of an open batch in one call and returns how many. All or none: raises PQ004 if one is not '
    'in the batch. reasons has one element for each message, or is NULL.';

create or replace function pgque.event_retry(batch_id bigint, event_id bigint, retry_time timestamptz)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, true);
    s pgque.subscriber;
    e pgque.retry_queue;
begin
    if retry_time is null then
        raise exception 'retry_time must not be null' using errcode = '22023';
    end if;
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    e := pgque._batch_event(c, s, event_id);
    if e.ev_id is null then
        raise exception 'event not found: % in batch %', coalesce(event_id::text, '<NULL>'), batch_id
            using errcode = 'PQ004', hint = 'event_retry takes an event of the open batch.';
    end if;
    return pgque._retry(e, retry_time);
end
$$;
comment on function pgque.event_retry(bigint, bigint, timestamptz) is
    'Schedules one event of an open batch for redelivery at a time, however often it was tried, and returns 1, or 0 '
    'if it already waits. Raises PQ003 if the batch is not open and PQ004 if the event is not in it.';

create or replace function pgque.event_retry(batch_id bigint, event_id bigint, retry_seconds int)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return pgque.event_retry(batch_id, event_id, clock_timestamp() + make_interval(secs => retry_seconds));
end
$$;
comment on function pgque.event_retry(bigint, bigint, int) is 'Same as event_retry with a time retry_seconds from now.';

create or replace function pgque.batch_retry(batch_id bigint, retry_seconds int)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, true);
    s pgque.subscriber;
    waiting int;
begin
    if retry_seconds is null then
        raise exception 'retry_seconds must not be null' using errcode = '22023';
    end if;
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    insert into pgque.retry_queue (
        ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry, ev_type, ev_data,
        ev_extra1, ev_extra2, ev_extra3, ev_extra4
    )
    select
        clock_timestamp() + make_interval(secs => retry_seconds), s.sub_queue, ev_id, ev_time, ev_txid,
        coalesce(s.sub_group, s.sub_id), ev_retry + 1, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4
    from pgque._batch_events(batch_id)
    on conflict (ev_owner, ev_id) do nothing;
    get diagnostics waiting = row_count;
    return waiting;
end
$$;
comment on function pgque.batch_retry(bigint, int) is
    'Schedules every event of an open batch for redelivery after retry_seconds and returns how many did not already '
    'wait.';

create or replace function pgque._ack_part(batch_id bigint, msg_ids bigint[])
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, true);
    s pgque.subscriber;
    cut text;
    is_beginning boolean;
    put_back int;
begin
    if msg_ids is null or exists (select from unnest(msg_ids) w where w is null) then
        raise exception 'msg_ids must not be null' using errcode = '22023';
    end if;
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    -- If the handled events are the beginning of the batch in log order, the batch is cut after them.
    select bool_and(e.is_done = (e.number <= e.done)), max(e.place) filter (where e.number = e.done), sum((not e.is_done)::int)
    into is_beginning, cut, put_back
    from (
        select
            row_number() over (order by b.ev_txid, b.ev_id) as number,
            count(*) filter (where d.msg_id is not null) over () as done,
            d.msg_id is not null as is_done,
            format('(%s,%s)', b.ev_txid, b.ev_id) as place
        from pgque._events(pgque._batch_span(c, s)) b
        left join (select distinct unnest(msg_ids) as msg_id) d on d.msg_id = b.ev_id
    ) e;
    if put_back > 0 and is_beginning and cut is not null then
        c.cur_upto := cut::pgque.place;
    elsif put_back > 0 then
        insert into pgque.retry_queue (
            ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry, ev_type, ev_data,
            ev_extra1, ev_extra2, ev_extra3, ev_extra4
        )
        select
            clock_timestamp(), s.sub_queue, ev_id, ev_time, ev_txid, coalesce(s.sub_group, s.sub_id), ev_retry, ev_type, ev_data,
            ev_extra1, ev_extra2, ev_extra3, ev_extra4
        from pgque._events(pgque._batch_span(c, s))
        where ev_id not in (select unnest(msg_ids))
        on conflict (ev_owner, ev_id) do nothing;
    end if;
    perform pgque._finish_batch(c, s);
    return coalesce(put_back, 0);
end
$$;
comment on function pgque._ack_part(bigint, bigint[]) is
    'Does the work of ack_part on any batch, for members of pgque_reader.';

create or replace function pgque.ack_part(batch_id bigint, msg_ids bigint[])
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque._ack_part(bigint, bigint[])'::pg_catalog.regprocedure, 'execute') then
        return pgque._ack_part(batch_id, msg_ids);
    end if;
    return (pgque._ask('ack_part', array[batch_id::pg_catalog.text, msg_ids::pg_catalog.text])).number::pg_catalog.int4;
end
$$;
comment on function pgque.ack_part(bigint, bigint[]) is
    'Finishes a batch of which only these messages were handled and returns how many are left. Those are delivered '
    'again unchanged, not as retries. For a consumer that stops in the middle of a batch. Raises PQ003 if the batch '
    'is not open.';

-- Return to the log
create or replace function pgque._append_retries(q pgque.queue, at_most int)
returns int
language plpgsql
as $$
declare
    txid xid8 := pg_current_xact_id();
    appended int;
begin
    execute format(
        'with due as (
            delete from pgque.retry_queue r
            where (r.ev_owner, r.ev_id) in (
                select d.ev_owner, d.ev_id
                from pgque.retry_queue d
                where d.ev_queue = $1 and d.ev_retry_after <= clock_timestamp()
                order by d.ev_retry_after
                limit $3
                for update skip locked
            )
            returning r.*
        )
        insert into %s_%s (
            ev_id, ev_time, ev_txid, ev_owner, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4
        )
        select ev_id, ev_time, $2, ev_owner, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4
        from due
        order by ev_id', q.queue_data_pfx, q.queue_cur_table)
        using q.queue_id, txid, at_most;
    get diagnostics appended = row_count;
    -- The first sequence tells the ticker that something is new, and how much. The second one tells monitoring that
    -- these ids were not sends.
    perform pgque._make_put_back_counter(q.queue_id);
    perform nextval(q.queue_event_seq::regclass), nextval(format('%s_put_back', q.queue_data_pfx)::regclass)
    from generate_series(1, appended);
    return appended;
end
$$;
comment on function pgque._append_retries(pgque.queue, int) is
    'Moves up to at_most due events from the retry queue to the log and returns how many.';

create or replace function pgque.maint_retry_events()
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue;
    appended int;
    total int := 0;
begin
    perform pgque._need_read_committed('maint_retry_events');
    perform pgque._after_restore();
    for q in
        select t.*
        from pgque.queue t
        where exists (select from pgque.retry_queue r where r.ev_retry_after <= clock_timestamp())
            and exists (
                select
                from pgque.retry_queue r
                where r.ev_queue = t.queue_id
                    and r.ev_retry_after <= clock_timestamp()
            )
        order by t.queue_id
    loop
        begin
            loop
                appended := pgque._append_retries(q, 5000);
                total := total + appended;
                exit when appended < 5000;
            end loop;
        exception
            when others then
                raise warning 'pgque: no retries for queue %: % (%)', q.queue_name, sqlerrm, sqlstate;
        end;
    end loop;
    return total;
end
$$;
comment on function pgque.maint_retry_events() is
    'Moves every due retry back to its queue''s log and returns how many. Call it in a separate transaction.';
