-- Figures for monitoring.
--
-- Invariant: figures come from ticks, cursors and sequences, never from counting events, so a call costs the same at
-- any backlog. They count ids: a rolled-back send counts as one. A redelivery uses an id but was not sent, so it is
-- counted apart (tick_put_back). A consumer's own redeliveries are counted by the log's index of owners, up to 1,000.

create or replace function pgque._new_since(t pgque.tick, seq bigint, put_back bigint)
returns bigint
language sql immutable
as $$
    select case
        when seq is not null and (t).tick_seq_after is not null
            then greatest(seq - (t).tick_seq_after - (coalesce(put_back, 0) - coalesce((t).tick_put_back, 0)), 0)
    end
$$;
comment on function pgque._new_since(pgque.tick, bigint, bigint) is
    'Returns the number of events sent since a tick, by the last ids of the queue, or NULL if these are not known.';

create or replace function pgque._own_put_back(
    q pgque.queue, owner int, earlier pgque.tick, later pgque.tick, place pgque.place, upto pgque.place
)
returns bigint
language plpgsql
as $$
declare
    found_rows bigint;
begin
    -- Does not wait for the lock: drop_queue locks the log before the sequence, which the caller has locked.
    execute format('lock table %s in access share mode nowait', q.queue_data_pfx);
    execute format(
        'with found as (
            select e.ev_txid, e.ev_id
            from %1$s e
            where e.ev_owner = $1
                and e.ev_txid >= pg_snapshot_xmax($2)
            union all
            select e.ev_txid, e.ev_id
            from %1$s e
            where e.ev_owner = $1
                and e.ev_txid = any (array(select pg_snapshot_xip($2)))
        )
        select count(*)
        from (
            select
            from found f
            where ($3 is null or pg_visible_in_snapshot(f.ev_txid, $3))
                and (($4).txid is null or (f.ev_txid, f.ev_id) > (($4).txid, ($4).id))
                and (($5).txid is null or (f.ev_txid, f.ev_id) <= (($5).txid, ($5).id))
            limit 1000
        ) counted', q.queue_data_pfx)
        into found_rows
        using owner, earlier.tick_snapshot, later.tick_snapshot, place, upto;
    return found_rows;
exception
    when lock_not_available or undefined_table then
        return 0; -- the log is being rotated or dropped
end
$$;
comment on function pgque._own_put_back(pgque.queue, int, pgque.tick, pgque.tick, pgque.place, pgque.place) is
    'Returns the number of redeliveries for one owner after a tick and a place and, if given, up to another tick and '
    'another place. Counts at most 1,000.';

create or replace function pgque._in_window(
    q pgque.queue, owner int, earlier pgque.tick, later pgque.tick, place pgque.place, upto pgque.place
)
returns bigint
language plpgsql
as $$
declare
    first bigint := greatest(earlier.tick_seq_after, place.id);
    last bigint := case when upto.id > first then upto.id else later.tick_seq_after end;
    redelivered bigint := coalesce(later.tick_put_back, 0) - coalesce(earlier.tick_put_back, 0);
begin
    if redelivered = 0 then
        return greatest(last - first, 0);
    end if;
    -- It is not known which ids in the window redeliveries used.
    return greatest(least(last - first, later.tick_seq_after - earlier.tick_seq_after - redelivered), 0)
        + pgque._own_put_back(q, owner, earlier, later, place, upto);
end
$$;
comment on function pgque._in_window(pgque.queue, int, pgque.tick, pgque.tick, pgque.place, pgque.place) is
    'Returns how many events for one owner lie between two ticks, or between two places there. Exact for a whole '
    'window, otherwise an upper bound.';

create or replace function pgque._held(q pgque.queue, owner int, c pgque.cursor)
returns bigint
language plpgsql
as $$
begin
    if c.cur_next_tick is null then
        return 0;
    end if;
    return pgque._in_window(
        q, owner, pgque._tick_seen(q.queue_id, c.cur_tick), pgque._tick_seen(q.queue_id, c.cur_next_tick), c.cur_place, c.cur_end);
end
$$;
comment on function pgque._held(pgque.queue, int, pgque.cursor) is
    'Returns how many events a member holds: all of its piece of a window, including events that a smaller receive '
    'left for later.';

create or replace function pgque._unseen(q pgque.queue, owner int, c pgque.cursor, seq bigint, put_back bigint)
returns bigint
language plpgsql
as $$
declare
    t pgque.tick := pgque._tick_seen(q.queue_id, c.cur_tick);
    window_end pgque.tick;
    events bigint := 0;
begin
    if (c.cur_place).txid is not null then
        window_end := pgque._tick_seen(q.queue_id, c.cur_next_tick);
        events := pgque._in_window(q, owner, t, window_end, c.cur_place, null);
        t := window_end;
    end if;
    events := events + pgque._new_since(t, seq, put_back);
    if put_back > coalesce(t.tick_put_back, 0) then
        events := events + pgque._own_put_back(q, owner, t, null, null, null);
    end if;
    return events;
end
$$;
comment on function pgque._unseen(pgque.queue, int, pgque.cursor, bigint, bigint) is
    'Returns how many events a consumer or a group has yet to receive: those sent since its position and its own '
    'redeliveries. Returns NULL if ids or the tick are missing.';

create or replace function pgque._queue_info(queue text)
returns table (
    queue_name text, queue_ntables int, queue_cur_table int, queue_rotation_period interval,
    queue_switch_time timestamptz, queue_external_ticker boolean, queue_ticker_paused boolean,
    queue_ticker_max_count int, queue_ticker_max_lag interval, queue_ticker_idle_period interval,
    ticker_lag interval, ev_per_sec double precision, ev_new bigint, last_tick_id bigint
)
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
        q.queue_name, q.queue_ntables, q.queue_cur_table, q.queue_rotation_period, q.queue_switch_time,
        q.queue_external_ticker, q.queue_ticker_paused, q.queue_ticker_max_count, q.queue_ticker_max_lag,
        q.queue_ticker_idle_period,
        greatest(clock_timestamp() - last.tick_time, '0'),
        (last.tick_event_seq - before.tick_event_seq
            - case when q.queue_external_ticker then 0 else coalesce(last.tick_put_back, 0) - before.put_back end)
            / nullif(least(greatest(extract(epoch from clock_timestamp() - before.tick_time), 0), 60), 0)::double precision,
        pgque._new_since(last, seq.value, back.value),
        last.tick_id
    from pgque.queue q
    cross join lateral pgque._last_tick(q.queue_id) last
    cross join lateral pgque._sequence_seen(q.queue_event_seq) seq (value)
    cross join lateral pgque._sequence_seen(q.queue_data_pfx || '_put_back') back (value)
    left join lateral (
        -- The last tick that is at least a minute old or, if there is none, the oldest one.
        (
            select t.tick_event_seq, t.tick_time, coalesce(t.tick_put_back, 0) as put_back
            from pgque.tick t
            where t.tick_queue = q.queue_id
                and t.tick_time <= clock_timestamp() - interval '1 minute'
            order by t.tick_id desc
            limit 1
        )
        union all
        (
            select t.tick_event_seq, t.tick_time, coalesce(t.tick_put_back, 0) as put_back
            from pgque.tick t
            where t.tick_queue = q.queue_id
            order by t.tick_id
            limit 1
        )
        limit 1
    ) before on true
    where $1 is null or q.queue_name = $1
    order by q.queue_name;
end
$$;
comment on function pgque._queue_info(text) is
    'Does the work of get_queue_info for any queue, for members of pgque_reader.';

create or replace function pgque.get_queue_info(queue text)
returns table (
    queue_name text, queue_ntables int, queue_cur_table int, queue_rotation_period interval,
    queue_switch_time timestamptz, queue_external_ticker boolean, queue_ticker_paused boolean,
    queue_ticker_max_count int, queue_ticker_max_lag interval, queue_ticker_idle_period interval,
    ticker_lag interval, ev_per_sec double precision, ev_new bigint, last_tick_id bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if has_function_privilege('pgque._queue_info(text)'::regprocedure, 'execute') then
        return query select * from pgque._queue_info($1);
    else
        return query
        select *
        from jsonb_to_recordset((pgque._ask('get_queue_info', array[$1])).rows) as info (
            queue_name text, queue_ntables int, queue_cur_table int, queue_rotation_period interval,
            queue_switch_time timestamptz, queue_external_ticker boolean, queue_ticker_paused boolean,
            queue_ticker_max_count int, queue_ticker_max_lag interval, queue_ticker_idle_period interval,
            ticker_lag interval, ev_per_sec double precision, ev_new bigint, last_tick_id bigint
        );
    end if;
end
$$;
comment on function pgque.get_queue_info(text) is
    'Returns one queue, or all queues for NULL: the settings, the age of the newest tick, the events per second over '
    'the last minute, and the number of events that no tick covers yet.';

create or replace function pgque.get_queue_info()
returns table (
    queue_name text, queue_ntables int, queue_cur_table int, queue_rotation_period interval,
    queue_switch_time timestamptz, queue_external_ticker boolean, queue_ticker_paused boolean,
    queue_ticker_max_count int, queue_ticker_max_lag interval, queue_ticker_idle_period interval,
    ticker_lag interval, ev_per_sec double precision, ev_new bigint, last_tick_id bigint
)
language sql
set search_path = pg_catalog, pg_temp
as $$
    select * from pgque.get_queue_info(null)
$$;
comment on function pgque.get_queue_info() is 'Returns every queue: see get_queue_info(queue).';

create or replace function pgque._consumer_info(queue text, consumer text)
returns table (
    queue_name text, consumer_name text, lag interval, last_seen interval, last_tick bigint,
    current_batch bigint, next_tick bigint, pending_events bigint
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if $1 is not null then
        perform pgque._queue($1);
        if $2 is not null then
            perform pgque._subscriber($1, $2);
        end if;
    end if;
    return query
    select
        q.queue_name,
        n.co_name,
        case
            when t.tick_id is null then null
            when t.tick_id = last.tick_id and c.cur_batch is null and seq.value <= t.tick_seq_after then interval '0'
            else greatest(clock_timestamp() - t.tick_time, '0')
        end,
        greatest(clock_timestamp() - c.cur_time, '0'),
        c.cur_tick,
        c.cur_batch,
        case when c.cur_batch is not null then c.cur_next_tick end,
        case
            when s.sub_group is not null then pgque._held(q, s.sub_group, c)
            else pgque._unseen(q, s.sub_id, c, seq.value, back.value)
        end
    from pgque.subscriber s
    join pgque.queue q on q.queue_id = s.sub_queue
    join pgque.consumer n on n.co_id = s.sub_consumer
    cross join lateral pgque._position(s.sub_id) c
    cross join lateral pgque._last_tick(s.sub_queue) last
    cross join lateral pgque._sequence_seen(q.queue_event_seq) seq (value)
    cross join lateral pgque._sequence_seen(q.queue_data_pfx || '_put_back') back (value)
    left join lateral (
        select *
        from pgque.tick k
        where k.tick_queue = s.sub_queue
            and k.tick_id = c.cur_tick
        limit 1 -- uses the index for each subscriber, whatever the planner estimates
    ) t on true
    where ($1 is null or q.queue_name = $1)
        and ($2 is null or n.co_name = $2)
    order by q.queue_name, n.co_name;
end
$$;
comment on function pgque._consumer_info(text, text) is
    'Does the work of get_consumer_info for any queue, for members of pgque_reader.';

create or replace function pgque.get_consumer_info(queue text, consumer text)
returns table (
    queue_name text, consumer_name text, lag interval, last_seen interval, last_tick bigint,
    current_batch bigint, next_tick bigint, pending_events bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if has_function_privilege('pgque._consumer_info(text, text)'::regprocedure, 'execute') then
        return query select * from pgque._consumer_info($1, $2);
    else
        return query
        select *
        from jsonb_to_recordset((pgque._ask('get_consumer_info', array[$1, $2])).rows) as info (
            queue_name text, consumer_name text, lag interval, last_seen interval, last_tick bigint,
            current_batch bigint, next_tick bigint, pending_events bigint
        );
    end if;
end
$$;
comment on function pgque.get_consumer_info(text, text) is
    'Returns the positions of consumers; NULL means all. lag is the age of the position, or 0 if nothing is left to '
    'do. last_seen is the time since the last batch or sign of life. pending_events is the number of events still to '
    'come, at most: those sent and the consumer''s own redeliveries. For a group it counts the events that no member '
    'holds, for a member those that it holds.';

create or replace function pgque.get_consumer_info(queue text)
returns table (
    queue_name text, consumer_name text, lag interval, last_seen interval, last_tick bigint,
    current_batch bigint, next_tick bigint, pending_events bigint
)
language sql
set search_path = pg_catalog, pg_temp
as $$
    select * from pgque.get_consumer_info($1, null)
$$;
comment on function pgque.get_consumer_info(text) is
    'Returns every consumer of a queue: see get_consumer_info(queue, consumer).';

create or replace function pgque.get_consumer_info()
returns table (
    queue_name text, consumer_name text, lag interval, last_seen interval, last_tick bigint,
    current_batch bigint, next_tick bigint, pending_events bigint
)
language sql
set search_path = pg_catalog, pg_temp
as $$
    select * from pgque.get_consumer_info(null, null)
$$;
comment on function pgque.get_consumer_info() is
    'Returns every consumer of every queue: see get_consumer_info(queue, consumer).';

create or replace function pgque.get_batch_info(
    batch_id bigint, out queue_name text, out consumer_name text, out batch_start timestamptz,
    out batch_end timestamptz, out prev_tick_id bigint, out tick_id bigint, out lag interval,
    out seq_start bigint, out seq_end bigint
)
returns record
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, false);
    queue_id int := (select s.sub_queue from pgque.subscriber s where s.sub_id = c.cur_sub);
    earlier pgque.tick := pgque._get_tick(queue_id, c.cur_tick);
    later pgque.tick := pgque._get_tick(queue_id, c.cur_next_tick);
begin
    select
        q.queue_name, n.co_name, earlier.tick_time, later.tick_time, earlier.tick_id, later.tick_id,
        greatest(clock_timestamp() - later.tick_time, '0'),
        greatest(earlier.tick_event_seq, (c.cur_place).id),
        least(later.tick_event_seq, (c.cur_upto).id, (c.cur_end).id)
        into queue_name, consumer_name, batch_start, batch_end, prev_tick_id, tick_id, lag, seq_start, seq_end
    from pgque.subscriber s
    join pgque.queue q on q.queue_id = s.sub_queue
    join pgque.consumer n on n.co_id = s.sub_consumer
    where s.sub_id = c.cur_sub;
end
$$;
comment on function pgque.get_batch_info(bigint) is
    'Returns the consumer that holds an open batch and the window that the batch covers. Raises PQ003 if the batch is '
    'not open.';
