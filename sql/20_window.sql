-- Whole windows as batches: PgQ's calls, for consumers that read and finish window by window.
--
-- Invariant: a batch opened here extends to the end of its window, however large, and may be empty. get_batch_events and
-- get_batch_cursor return its events; ack, nack and fencing are those of batch.

create or replace function pgque._window_end_custom(
    queue_id int, start pgque.tick, min_lag interval, min_count int, min_interval interval
)
returns pgque.tick
language plpgsql volatile
as $$
declare
    t pgque.tick := pgque._window_end(queue_id, start, null);
begin
    if t.tick_floor <> start.tick_floor
        or (min_lag is null and min_count is null and min_interval is null)
    then
        return t;
    end if;
    select * into t
    from pgque.tick k
    where k.tick_queue = queue_id
        and k.tick_id > start.tick_id
        and (min_lag is null or pgque._is_far(k.tick_time, min_lag))
        and (
            (min_count is null and min_interval is null)
            or k.tick_event_seq - start.tick_event_seq >= min_count
            or k.tick_time - start.tick_time >= min_interval
            or (min_interval is not null and k.tick_time < start.tick_time) -- the clock was set back
            or k.tick_floor <> start.tick_floor
        )
    order by k.tick_id
    limit 1;
    if t.tick_floor <> start.tick_floor then
        -- A life of the log ended before the window was that large, so the window ends with that life.
        select * into t
        from pgque.tick k
        where k.tick_queue = queue_id
            and k.tick_id < t.tick_id
        order by k.tick_id desc
        limit 1;
    end if;
    return t;
end
$$;
comment on function pgque._window_end_custom(int, pgque.tick, interval, int, interval) is
    'Returns the first tick that ends a window of the wanted size and age.';

create or replace function pgque.get_batch_events(
    batch_id bigint,
    out ev_id bigint, out ev_time timestamptz, out ev_txid bigint, out ev_retry int, out ev_type text,
    out ev_data text, out ev_extra1 text, out ev_extra2 text, out ev_extra3 text, out ev_extra4 text
)
returns setof record
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        e.ev_id, e.ev_time, e.ev_txid::text::bigint, e.ev_retry, e.ev_type, e.ev_data,
        e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
    from pgque._batch_events(batch_id) e;
end
$$;
comment on function pgque.get_batch_events(bigint) is
    'Returns the events that finish_batch(batch_id) will cover, by ev_id. Raises PQ003 if the batch is not open.';

-- Runs with the caller's rights, because extra_where is the caller's SQL.
create or replace function pgque.get_batch_cursor(
    batch_id bigint, cursor_name text, quick_limit int, extra_where text,
    out ev_id bigint, out ev_time timestamptz, out ev_txid bigint, out ev_retry int, out ev_type text,
    out ev_data text, out ev_extra1 text, out ev_extra2 text, out ev_extra3 text, out ev_extra4 text
)
returns setof record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    events refcursor := cursor_name;
begin
    if cursor_name is null then
        raise exception 'cursor_name must not be null' using errcode = '22023';
    elsif quick_limit is null or quick_limit < 0 then
        raise exception 'quick_limit must be >= 0' using errcode = '22023';
    end if;
    perform pgque._need_batch(batch_id, false);
    open events no scroll for execute
        'select * from pgque.get_batch_events($1)' || coalesce(' where (' || extra_where || ')', '')
        using batch_id;
    for row_number in 1 .. quick_limit loop
        fetch events into ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4;
        exit when not found;
        return next;
    end loop;
end
$$;
comment on function pgque.get_batch_cursor(bigint, text, int, text) is
    'Returns the first quick_limit events of a batch. FETCH from the named cursor returns the rest, within the '
    'transaction. extra_where is SQL over the columns of the result.';

create or replace function pgque.get_batch_cursor(
    batch_id bigint, cursor_name text, quick_limit int,
    out ev_id bigint, out ev_time timestamptz, out ev_txid bigint, out ev_retry int, out ev_type text,
    out ev_data text, out ev_extra1 text, out ev_extra2 text, out ev_extra3 text, out ev_extra4 text
)
returns setof record
language sql
set search_path = pg_catalog, pg_temp
as $$
    select * from pgque.get_batch_cursor(batch_id, cursor_name, quick_limit, null)
$$;
comment on function pgque.get_batch_cursor(bigint, text, int) is
    'Same as get_batch_cursor with extra_where, without a condition.';

create or replace function pgque._open_window(queue text, consumer text, min_lag interval, min_count int, min_interval interval)
returns pgque.cursor
language plpgsql
as $$
declare
    s pgque.subscriber := pgque._subscriber(queue, consumer);
    c pgque.cursor;
    earlier pgque.tick;
    later pgque.tick;
    newest pgque.tick;
begin
    perform pgque._refuse_cooperative(s, consumer);
    newest := pgque._last_tick(s.sub_queue);
    if not pgque._has_work(s, newest.tick_id) or pgque._is_from_the_future(newest.tick_snapshot) then
        return null;
    end if;
    c := pgque._lock_normal(s, queue, consumer);
    if c.cur_batch is not null then
        return c;
    end if;
    if c.cur_next_tick is null then
        earlier := pgque._get_tick(s.sub_queue, c.cur_tick);
        later := pgque._window_end_custom(s.sub_queue, earlier, min_lag, min_count, min_interval);
        if later.tick_id is null then
            return null;
        end if;
        c.cur_next_tick := later.tick_id;
    end if;
    c.cur_batch := nextval('pgque.batch_id_seq');
    return pgque._move(c);
end
$$;
comment on function pgque._open_window(text, text, interval, int, interval) is
    'Opens a whole window as a batch, or returns the open batch, or a row of NULLs if nothing is ready.';

create or replace function pgque.next_batch(queue text, consumer text)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (pgque._open_window(queue, consumer, null, null, null)).cur_batch;
end
$$;
comment on function pgque.next_batch(text, text) is
    'Opens the next window as a batch, empty or not, and returns its id, or that of the open batch, or NULL if '
    'nothing is ready.';

create or replace function pgque.next_batch_custom(
    queue text, consumer text, min_lag interval, min_count int, min_interval interval,
    out batch_id bigint, out cur_tick_id bigint, out prev_tick_id bigint, out cur_tick_time timestamptz,
    out prev_tick_time timestamptz, out cur_tick_event_seq bigint, out prev_tick_event_seq bigint
)
returns record
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._open_window(queue, consumer, min_lag, min_count, min_interval);
    queue_id int := (pgque._queue(queue)).queue_id;
    t pgque.tick;
begin
    batch_id := c.cur_batch;
    t := pgque._get_tick(queue_id, c.cur_next_tick);
    cur_tick_id := t.tick_id;
    cur_tick_time := t.tick_time;
    cur_tick_event_seq := t.tick_event_seq;
    t := pgque._get_tick(queue_id, c.cur_tick);
    prev_tick_id := t.tick_id;
    prev_tick_time := t.tick_time;
    prev_tick_event_seq := t.tick_event_seq;
end
$$;
comment on function pgque.next_batch_custom(text, text, interval, int, interval) is
    'Same as next_batch_info, for a window that ended at least min_lag ago and holds min_count events or lasted '
    'min_interval.';

-- Members of a cooperative group
create or replace function pgque._open_window_coop(
    queue text, consumer text, subconsumer text, min_lag interval, min_count int, min_interval interval,
    dead_interval interval
)
returns pgque.cursor
language plpgsql
as $$
declare
    m pgque.subscriber;
    c pgque.cursor;
    g pgque.cursor;
    dead pgque.cursor;
    earlier pgque.tick;
    later pgque.tick;
begin
    m := pgque._need_member(queue, consumer, subconsumer, dead_interval);
    if not pgque._has_member_work(m, dead_interval) then
        return null;
    end if;
    c := pgque._lock_subscribed(m.sub_id, queue, consumer || '.' || subconsumer);
    if c.cur_batch is not null then
        return c;
    end if;
    if c.cur_next_tick is null then
        g := pgque._lock_position(m.sub_group);
        if dead_interval is not null then
            dead := pgque._dead_sibling(m, dead_interval, true);
        end if;
        if dead.cur_sub is not null then
            c := pgque._take_over(c, dead);
        else
            earlier := pgque._get_tick(m.sub_queue, g.cur_tick);
            if g.cur_next_tick is not null then
                later := pgque._get_tick(m.sub_queue, g.cur_next_tick);
            else
                later := pgque._window_end_custom(m.sub_queue, earlier, min_lag, min_count, min_interval);
                if later.tick_id is null then
                    return null;
                end if;
            end if;
            c.cur_tick := g.cur_tick;
            c.cur_next_tick := later.tick_id;
            c.cur_place := g.cur_place;
            g.cur_tick := later.tick_id;
            g.cur_next_tick := null;
            g.cur_place := null;
            perform pgque._move(g);
        end if;
    end if;
    c.cur_upto := c.cur_end;
    c.cur_batch := nextval('pgque.batch_id_seq');
    return pgque._move(c);
end
$$;
comment on function pgque._open_window_coop(text, text, text, interval, int, interval, interval) is
    'Gives a member a whole window as a batch, or its open batch again. Returns a row of NULLs if nothing is ready.';

create or replace function pgque.next_batch_custom(
    queue text, consumer text, subconsumer text, min_lag interval, min_count int,
    min_interval interval, dead_interval interval default null,
    out batch_id bigint, out prev_tick_id bigint, out next_tick_id bigint
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._open_window_coop(
        queue, consumer, subconsumer, min_lag, min_count, min_interval, dead_interval);
begin
    batch_id := c.cur_batch;
    prev_tick_id := c.cur_tick;
    next_tick_id := c.cur_next_tick;
end
$$;
comment on function pgque.next_batch_custom(text, text, text, interval, int, interval, interval) is
    'Same as next_batch for a member, for a window that ended at least min_lag ago and holds min_count events or '
    'lasted min_interval.';

create or replace function pgque.next_batch_info(
    queue text, consumer text,
    out batch_id bigint, out cur_tick_id bigint, out prev_tick_id bigint, out cur_tick_time timestamptz,
    out prev_tick_time timestamptz, out cur_tick_event_seq bigint, out prev_tick_event_seq bigint
)
returns record
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select * from pgque.next_batch_custom(queue, consumer, null, null, null)
$$;
comment on function pgque.next_batch_info(text, text) is
    'Same as next_batch, but also returns the two ticks of the window.';

create or replace function pgque.next_batch(
    queue text, consumer text, subconsumer text, dead_interval interval default null
)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (pgque._open_window_coop(
        queue, consumer, subconsumer, null, null, null, dead_interval)).cur_batch;
end
$$;
comment on function pgque.next_batch(text, text, text, interval) is
    'Opens the group''s next window as a batch of one member and returns its id, or that of the member''s open batch, '
    'or NULL if nothing is ready.';
