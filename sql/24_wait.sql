-- How long the oldest event has waited, and the state of queues and consumers. Alarms use these.
--
-- Invariant: after a quiet hour, a new event has waited since it was sent, not for an hour. The age of a position (lag in
-- info) starts when the last event was done; the waiting time starts when the next one could have been. Figures come from
-- ticks. Only for events that no tick covers, and only if the last tick is not recent, one row of the log is read.
--
-- The state of a queue and of a consumer is decided here and nowhere else: top, the dashboard, doctor, metrics and alerts
-- show it.

create or replace function pgque._time_after(queue_id int, t pgque.tick)
returns timestamptz
language plpgsql
as $$
begin
    if t.tick_time > clock_timestamp() then
        -- The clock was set back. The event has waited at least since the next tick by the new clock.
        return coalesce(min(k.tick_time), t.tick_time)
        from pgque._ticks_after(queue_id, t.tick_id, 1000) k
        where k.tick_time <= clock_timestamp();
    end if;
    return t.tick_time;
end
$$;
comment on function pgque._time_after(int, pgque.tick) is
    'Returns the time of a tick or, if that is in the future, the time of a later tick that is not.';

create or replace function pgque._queue_state(q pgque.queue, waiting interval)
returns text
language sql immutable
as $$
    select case
        when (q).queue_ticker_paused then 'paused'
        when not (q).queue_external_ticker
            and waiting > interval '10 seconds' + least((q).queue_ticker_max_lag, interval '1000 years') then 'no tick'
        else 'ok'
    end
$$;
comment on function pgque._queue_state(pgque.queue, interval) is
    'Returns the state of a queue: paused, no tick (its oldest event has waited for a tick 10 seconds longer than '
    'ticker_max_lag) or ok.';

create or replace function pgque._consumer_state(takeovers int, ready interval, last_seen interval)
returns text
language sql immutable
as $$
    select case
        when takeovers >= 3 then 'crash loop'
        when least(ready, last_seen) >= interval '10 minutes' then 'silent'
        when ready >= interval '10 minutes' then 'stuck'
        when ready >= interval '1 minute' then 'behind'
        else 'ok'
    end
$$;
comment on function pgque._consumer_state(int, interval, interval) is
    'Returns the state of a consumer: crash loop (its batch was taken over three times in a row), silent (no sign of '
    'life for 10 minutes although events were ready), stuck (its oldest event has been ready for 10 minutes), behind '
    '(for a minute) or ok.';

create or replace function pgque._queue_wait(queue text)
returns table (queue_name text, ev_new bigint, waiting interval, state text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if $1 is not null then
        perform pgque._queue($1);
    end if;
    return query
    select i.queue_name, i.ev_new, i.waiting, pgque._queue_state(q, i.waiting)
    from (
        select
            t.queue_name,
            t.queue_id,
            pgque._new_since(last, seq.value, back.value) as ev_new,
            case when seq.value > last.tick_seq_after then pgque._unticked_for(t, last) else '0' end as waiting
        from pgque.queue t
        cross join lateral pgque._last_tick(t.queue_id) last
        cross join lateral pgque._sequence_seen(t.queue_event_seq) seq (value)
        cross join lateral pgque._sequence_seen(t.queue_data_pfx || '_put_back') back (value)
        where $1 is null or t.queue_name = $1
    ) i
    join pgque.queue q on q.queue_id = i.queue_id
    order by i.queue_name;
end
$$;
comment on function pgque._queue_wait(text) is
    'Does the work of get_queue_wait for any queue, for members of pgque_reader.';

create or replace function pgque.get_queue_wait(queue text default null)
returns table (queue_name text, ev_new bigint, waiting interval, state text)
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
            queue_name text, ev_new bigint, waiting interval, state text
        );
    end if;
end
$$;
comment on function pgque.get_queue_wait(text) is
    'Returns one queue, or all queues for NULL: the number of events that no tick covers yet, how long the oldest of '
    'them has waited for a tick (0 if there is none), and the state. The state is paused, no tick (the oldest has '
    'waited 10 seconds longer than ticker_max_lag) or ok.';

create or replace function pgque._consumer_wait(queue text, consumer text)
returns table (
    queue_name text, consumer_name text, waiting interval, ready interval, last_seen interval,
    current_batch bigint, pending_events bigint, group_name text, takeovers int, handled bigint, state text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    with one as (
        select
            i.*,
            s.sub_id,
            s.sub_group,
            case
                when i.last_tick < last.tick_id then next.age
                when seq.value > last.tick_seq_after and i.last_tick is not null then pgque._unticked_for(q, last)
                else '0'
            end as waiting,
            coalesce(next.age, '0') as ready,
            coalesce(c.cur_takeovers, 0) as takeovers,
            case
                when s.sub_group is null
                    then pgque._passed(q.queue_id, c.cur_tick, c.cur_place) - coalesce(c.cur_skipped, 0)
            end as handled
        from pgque._consumer_info($1, null) i
        join pgque.queue q on q.queue_name = i.queue_name
        join pgque.consumer n on n.co_name = i.consumer_name
        join pgque.subscriber s on s.sub_queue = q.queue_id and s.sub_consumer = n.co_id
        cross join lateral pgque._position(s.sub_id) c
        cross join lateral pgque._last_tick(q.queue_id) last
        cross join lateral pgque._sequence_seen(q.queue_event_seq) seq (value)
        left join lateral (
            select greatest(clock_timestamp() - pgque._time_after(q.queue_id, k), '0') as age
            from pgque._tick_after(q.queue_id, i.last_tick) k
            where i.last_tick < last.tick_id
        ) next on true
    ),
    members as (
        -- Events that members hold are still to be done for their group, whichever member holds them now.
        select
            m.sub_group,
            max(m.waiting) as waiting,
            max(m.ready) as ready,
            min(m.last_seen) as last_seen,
            max(m.takeovers) as takeovers,
            sum(m.pending_events)::bigint as held
        from one m
        where m.sub_group is not null
        group by m.sub_group
    ),
    whole as (
        select
            o.queue_name,
            o.consumer_name,
            greatest(o.waiting, m.waiting) as waiting,
            greatest(o.ready, m.ready) as ready,
            least(o.last_seen, m.last_seen) as last_seen,
            o.current_batch,
            o.pending_events,
            g.consumer_name as group_name,
            greatest(o.takeovers, m.takeovers) as takeovers,
            case when o.handled is not null then greatest(o.handled - coalesce(m.held, 0), 0) end as handled
        from one o
        left join members m on m.sub_group = o.sub_id
        left join one g on g.sub_id = o.sub_group
    )
    select w.*, pgque._consumer_state(w.takeovers, w.ready, w.last_seen)
    from whole w
    where $2 is null or w.consumer_name = $2
    order by w.queue_name, w.consumer_name;
    if not found and $2 is not null and $1 is not null then
        perform pgque._subscriber($1, $2); -- raises an error that names the missing one
    end if;
end
$$;
comment on function pgque._consumer_wait(text, text) is
    'Does the work of get_consumer_wait for any queue, for members of pgque_reader.';

create or replace function pgque.get_consumer_wait(queue text default null, consumer text default null)
returns table (
    queue_name text, consumer_name text, waiting interval, ready interval, last_seen interval,
    current_batch bigint, pending_events bigint, group_name text, takeovers int, handled bigint, state text
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
            current_batch bigint, pending_events bigint, group_name text, takeovers int, handled bigint, state text
        );
    end if;
end
$$;
comment on function pgque.get_consumer_wait(text, text) is
    'Returns how long the oldest event that a consumer has not finished has waited, as exactly as ticks tell; NULL '
    'means all. ready is how long the consumer could have received an event; events that wait for a tick do not '
    'count. Both are 0 if there is no such event. A group waits as long as the member that waits longest. takeovers '
    'is how often in a row the consumer''s batch was taken over from a member that died. handled grows with the '
    'events that the consumer finishes, not with a seek. group_name is the group of a member. state is ok, behind '
    '(ready for a minute), stuck (ready for 10 minutes), silent (stuck and no sign of life for 10 minutes) or crash '
    'loop (3 takeovers in a row).';
