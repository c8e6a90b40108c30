-- How long the oldest event waits: what alarms are about.
--
-- Invariant: after a quiet hour a new event has waited since it came, not for an hour. The age of a
-- position (lag in 12_info.sql) says when the last thing was done; here it counts when the next one
-- could have been. Figures come from ticks. Only for what no tick covers, although the last is not
-- new, is the log asked: one row, by its index.

create or replace function pgque._unticked_for(q pgque.queue, last pgque.tick)
returns interval
language plpgsql
as $$
declare
    age interval := clock_timestamp() - last.tick_time;
    first timestamptz;
begin
    if age >= '0' and age < '1 second' then
        return age; -- it cannot be older
    end if;
    -- Not waited for: drop_queue locks the log before the sequence, which the caller has locked.
    execute format('lock table %s in access share mode nowait', q.queue_data_pfx);
    execute format(
        'select e.ev_time
        from %s e
        where e.ev_owner is null
            and e.ev_txid >= $1
        order by e.ev_txid, e.ev_id
        limit 1', q.queue_data_pfx)
        into first
        using pg_snapshot_xmax(last.tick_snapshot);
    return coalesce(greatest(clock_timestamp() - first, '0'), '0'); -- sent, but not committed
exception
    when lock_not_available or undefined_table then
        return interval '0'; -- it is rotated or dropped in this moment
end
$$;
comment on function pgque._unticked_for(pgque.queue, pgque.tick) is
    'The age of the oldest event that is newer than the last tick; 0 where none has been committed.';

create or replace function pgque._time_after(queue_id int, t pgque.tick)
returns timestamptz
language plpgsql
as $$
begin
    if t.tick_time > clock_timestamp() then
        -- The clock was set back: it has been waiting at least since the next tick by the new one.
        return coalesce(min(k.tick_time), t.tick_time)
        from pgque._ticks_after(queue_id, t.tick_id, 1000) k
        where k.tick_time <= clock_timestamp();
    end if;
    return t.tick_time;
end
$$;
comment on function pgque._time_after(int, pgque.tick) is 'The time of a tick, or of a later one that does not lie in the future.';

create or replace function pgque._queue_wait(queue text)
returns table (queue_name text, ev_new bigint, waiting interval)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if $1 is not null then
        perform pgque._queue($1);
    end if;
    return query
    select
        q.queue_name,
        case when seq.value is not null then greatest(seq.value - last.tick_seq_after, 0) end,
        case when seq.value > last.tick_seq_after then pgque._unticked_for(q, last) else '0' end
    from pgque.queue q
    cross join lateral pgque._last_tick(q.queue_id) last
    cross join lateral pgque._sequence_seen(q.queue_event_seq) seq (value)
    where $1 is null or q.queue_name = $1
    order by q.queue_name;
end
$$;
comment on function pgque._queue_wait(text) is 'get_queue_wait for members of pgque_reader, of any queue.';

create or replace function pgque.get_queue_wait(queue text default null)
returns table (queue_name text, ev_new bigint, waiting interval)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if has_function_privilege('pgque._queue_wait(text)'::regprocedure, 'execute') then
        return query select * from pgque._queue_wait($1);
    else
        return query
        select *
        from jsonb_to_recordset((pgque._ask('get_queue_wait', array[$1])).rows) as info (
            queue_name text, ev_new bigint, waiting interval
        );
    end if;
end
$$;
comment on function pgque.get_queue_wait(text) is
    'One queue, or with NULL all: events not ticked yet, and for how long the oldest has waited for a tick, 0 where there is none.';

create or replace function pgque._consumer_wait(queue text, consumer text)
returns table (
    queue_name text, consumer_name text, waiting interval, ready interval, last_seen interval,
    current_batch bigint, pending_events bigint
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        i.queue_name,
        i.consumer_name,
        case
            when i.last_tick < last.tick_id then next.age
            when seq.value > last.tick_seq_after and i.last_tick is not null then pgque._unticked_for(q, last)
            else '0'
        end,
        coalesce(next.age, '0'),
        i.last_seen,
        i.current_batch,
        i.pending_events
    from pgque._consumer_info($1, $2) i
    join pgque.queue q on q.queue_name = i.queue_name
    cross join lateral pgque._last_tick(q.queue_id) last
    cross join lateral pgque._sequence_seen(q.queue_event_seq) seq (value)
    left join lateral (
        select greatest(clock_timestamp() - pgque._time_after(q.queue_id, k), '0') as age
        from pgque._tick_after(q.queue_id, i.last_tick) k
        where i.last_tick < last.tick_id
    ) next on true
    order by i.queue_name, i.consumer_name;
end
$$;
comment on function pgque._consumer_wait(text, text) is 'get_consumer_wait for members of pgque_reader, of any queue.';

create or replace function pgque.get_consumer_wait(queue text default null, consumer text default null)
returns table (
    queue_name text, consumer_name text, waiting interval, ready interval, last_seen interval,
    current_batch bigint, pending_events bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if has_function_privilege('pgque._consumer_wait(text, text)'::regprocedure, 'execute') then
        return query select * from pgque._consumer_wait($1, $2);
    else
        return query
        select *
        from jsonb_to_recordset((pgque._ask('get_consumer_wait', array[$1, $2])).rows) as info (
            queue_name text, consumer_name text, waiting interval, ready interval, last_seen interval,
            current_batch bigint, pending_events bigint
        );
    end if;
end
$$;
comment on function pgque.get_consumer_wait(text, text) is
    'For how long the oldest event before a consumer has waited, as nearly as ticks tell; NULL means all. ready is for how long '
    'the consumer could have had something: what waits for a tick it cannot get. Both are 0 where nothing is before it.';
