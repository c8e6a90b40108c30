-- Batches: a subscriber's position, the events between two ticks, opening and finishing.
--
-- Invariant: a position is read under the lock of its subscriber's row, in a statement that begins after the lock is
-- held. It changes by inserting the next row, whose cur_seq is one higher. A caller whose snapshot is older than the
-- newest row (REPEATABLE READ, SERIALIZABLE) collides with that row's key and gets a serialization failure, never an
-- old position.
--
-- Locks are taken in the order of docs/architecture.md. The lock on a table that is emptied is waited for only a
-- moment, so it may be taken at any point.

create or replace function pgque._lock_position(subscriber_id int, no_wait boolean default false)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    c pgque.cursor;
begin
    if no_wait then
        perform from pgque.subscriber t where t.sub_id = subscriber_id for update nowait;
    else
        perform from pgque.subscriber t where t.sub_id = subscriber_id for update;
    end if;
    if found then
        c := pgque._position(subscriber_id);
        if c.cur_sub is null and pgque._isolated_from_commits() then
            perform pgque._raise_moved_on('the consumer');
        elsif c.cur_sub is null then
            raise exception 'subscription % has lost its position', subscriber_id
                using errcode = 'PQ011',
                    hint = 'Its rows in pgque.cursor were deleted by hand. Unsubscribe and resubscribe the consumer.';
        end if;
        if pgque._isolated_from_commits() then
            c := pgque._move(c);
        end if;
    end if;
    return c;
end
$$;
comment on function pgque._lock_position(int, boolean) is
    'Locks a subscriber and returns its position, or NULLs if it was removed. Raises 40001 if the snapshot is too old.';

create or replace function pgque._window_end(queue_id int, start pgque.tick, wanted int, newest bigint default null)
returns pgque.tick
language plpgsql volatile
as $$
declare
    t pgque.tick;
    further pgque.tick;
begin
    t := pgque._tick_after(queue_id, start.tick_id);
    if wanted is null or t.tick_id is null or t.tick_id = newest or t.tick_floor <> start.tick_floor then
        return t;
    end if;
    -- Merges several windows, as long as they hold about as many events as wanted.
    select * into further
    from pgque._ticks_after(queue_id, t.tick_id, 500) next_ticks
    where next_ticks.tick_floor = start.tick_floor
        and next_ticks.tick_seq_after <= start.tick_seq_after + wanted
    order by next_ticks.tick_id desc
    limit 1;
    if found then
        return further;
    end if;
    return t;
end
$$;
comment on function pgque._window_end(int, pgque.tick, int, bigint) is
    'Returns the tick that ends the window after start: the next one or, with wanted, a later one after up to about '
    'that many events. Stops at newest.';

create or replace function pgque._span(
    q pgque.queue, owner int, earlier pgque.tick, later pgque.tick, place pgque.place, upto pgque.place
)
returns pgque.span
language plpgsql
as $$
declare
    s pgque.span;
    since xid8 := pg_snapshot_xmax(earlier.tick_snapshot);
    before xid8 := pg_snapshot_xmax(later.tick_snapshot);
begin
    if earlier.tick_floor <> later.tick_floor then
        return s; -- nothing lies between two lives of the log: see restore
    elsif earlier.tick_floor = q.queue_floor then
        s.owner := owner; -- redeliveries of an earlier life were removed from the log
    end if;
    s.queue_id := q.queue_id;
    s.snapshot := later.tick_snapshot;
    s.all_finished := pg_snapshot_xmin(later.tick_snapshot) = before;
    if not s.all_finished then
        s.all_finished := not exists (select from pg_snapshot_xip(later.tick_snapshot) as txid where txid >= since);
    end if;
    s.floor := earlier.tick_floor;
    s.last_id := later.tick_seq_after;
    s.place := place;
    s.upto := upto;
    s.late := '{}';
    if place.txid >= since then
        s.after := place;
    else
        if pg_snapshot_xmin(earlier.tick_snapshot) <> since then
            s.late := pgque._late(earlier.tick_snapshot, later.tick_snapshot);
        end if;
        s.after := (since, -1);
    end if;
    s.until := case when upto.txid < before then upto else (before, -1)::pgque.place end;
    s.at_most := case when s.late = '{}' then later.tick_seq_after - earlier.tick_seq_before end;
    return s;
end
$$;
comment on function pgque._span(pgque.queue, int, pgque.tick, pgque.tick, pgque.place, pgque.place) is
    'Returns the part of a window that one owner reads, between two places if given, or a row of NULLs if it is empty.';

create or replace function pgque._events(s pgque.span)
returns table (
    ev_id bigint, ev_time timestamptz, ev_txid xid8, ev_retry int, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text
)
language plpgsql
as $$
begin
    if s.queue_id is null then
        return;
    end if;
    begin
        return query execute 'select * from pgque._event_' || s.queue_id || '_events($1)' using s;
        -- The error releases the locks on the log; otherwise a slow handler would prevent its rotation. Rows that the
        -- subscriber's position has not passed are not truncated, with or without locks.
        raise exception using errcode = 'PQUND';
    exception
        when sqlstate 'PQUND' then null;
    end;
end
$$;
comment on function pgque._events(pgque.span) is 'Returns the events of a span, by ev_id.';

create or replace function pgque._holds_events(s pgque.span)
returns boolean
language plpgsql
as $$
declare
    holds boolean;
begin
    if s.queue_id is null then
        return false;
    end if;
    begin
        execute 'select exists (select from pgque._event_' || s.queue_id || '_places($1, 0, 1))' into holds using s;
        raise exception using errcode = 'PQUND'; -- see _events
    exception
        when sqlstate 'PQUND' then null;
    end;
    return holds;
end
$$;
comment on function pgque._holds_events(pgque.span) is 'Returns true if a span holds an event.';

create or replace function pgque._part(s pgque.span, first pgque.place, last pgque.place)
returns pgque.span
language plpgsql immutable
as $$
begin
    if (first.txid, first.id) > ((s.after).txid, (s.after).id) then
        s.after := first;
    end if;
    if (last.txid, last.id) < ((s.until).txid, (s.until).id) then
        s.until := last;
    end if;
    return s;
end
$$;
comment on function pgque._part(pgque.span, pgque.place, pgque.place) is
    'Returns a span without the events up to first and after last. Its late transactions stay.';

create or replace function pgque._cut(s pgque.span, max_return int)
returns pgque.span
language plpgsql
as $$
declare
    p pgque.place;
    cut pgque.place;
begin
    if s.queue_id is null or max_return >= s.at_most then
        return s;
    end if;
    begin
        for p in execute 'select * from pgque._event_' || s.queue_id || '_places($1, $2, 2)' using s, max_return - 1 loop
            if cut.txid is not null then
                s.upto := cut; -- another event follows
            end if;
            cut := p;
        end loop;
        raise exception using errcode = 'PQUND'; -- see _events
    exception
        when sqlstate 'PQUND' then null;
    end;
    return pgque._part(s, null, s.upto);
end
$$;
comment on function pgque._cut(pgque.span, int) is 'Returns the first max_return events of a span, or all of it.';

create or replace function pgque._pass_over_nothing(q pgque.queue, owner int, start pgque.tick)
returns pgque.tick
language plpgsql
as $$
declare
    t pgque.tick;
    span int := 2;
begin
    loop
        select * into t
        from pgque._ticks_after(q.queue_id, start.tick_id, span) k
        where k.tick_floor = start.tick_floor
        order by k.tick_id desc
        limit 1;
        if t.tick_id is null then
            return start;
        elsif not pgque._holds_events(pgque._span(q, owner, start, t, null, null)) then
            start := t;
            span := least(2 * span, 500);
        elsif span > 1 then
            span := span / 2;
        else
            return start;
        end if;
    end loop;
end
$$;
comment on function pgque._pass_over_nothing(pgque.queue, int, pgque.tick) is
    'Returns the last tick before the first event for this owner. Many empty windows cost little more than one.';

-- Batches by id
create or replace function pgque._same_place(a pgque.place, b pgque.place)
returns boolean
language sql immutable
as $$
    select a.txid is not distinct from b.txid and a.id is not distinct from b.id
$$;
comment on function pgque._same_place(pgque.place, pgque.place) is 'Returns true if two places are equal or both NULL.';

create or replace function pgque._find_batch(batch_id bigint, lock boolean)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    holder int := pgque._batch_holder(batch_id);
    c pgque.cursor;
begin
    if lock and holder is not null then
        c := pgque._lock_position(holder);
    elsif lock and pgque._isolated_from_commits() and pgque._ledger_was_truncated() then
        perform pgque._raise_moved_on('the ledger'); -- its row may have moved to the other child
    elsif exists (select from pgque.subscriber s where s.sub_id = holder) then
        c := pgque._position(holder);
    end if;
    if c.cur_batch = batch_id then
        return c;
    end if;
    return null;
end
$$;
comment on function pgque._find_batch(bigint, boolean) is
    'Returns the position of the holder of an open batch, locked if lock is true, or NULLs if no such batch is open.';

create or replace function pgque._raise_not_open(batch_id bigint)
returns void
language plpgsql
as $$
begin
    raise exception 'batch not found: %', coalesce(batch_id::text, '<NULL>')
        using errcode = 'PQ003', hint = 'It was finished or taken over, or never existed.';
end
$$;
comment on function pgque._raise_not_open(bigint) is 'Raises PQ003: the batch is not open.';

create or replace function pgque._warn_not_open(batch_id bigint)
returns int
language plpgsql
as $$
begin
    raise warning 'batch % is not open: it was finished or taken over, or never existed', batch_id;
    return 0;
end
$$;
comment on function pgque._warn_not_open(bigint) is 'Warns that a batch is not open and returns 0.';

create or replace function pgque._need_batch(batch_id bigint, lock boolean)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    c pgque.cursor := pgque._find_batch(batch_id, lock);
begin
    if c.cur_sub is null then
        perform pgque._raise_not_open(batch_id);
    end if;
    return c;
end
$$;
comment on function pgque._need_batch(bigint, boolean) is 'Same as _find_batch, but raises PQ003 if none is open.';

create or replace function pgque._finish_batch(c pgque.cursor, s pgque.subscriber)
returns void
language plpgsql
as $$
begin
    if not pgque._same_place(c.cur_upto, c.cur_end) then
        c.cur_place := c.cur_upto; -- the batch was cut: the next one continues there
    else
        -- A member then holds nothing: the group's own cursor has already passed this window.
        c.cur_tick := case when s.sub_group is null then c.cur_next_tick end;
        c.cur_next_tick := null;
        c.cur_place := null;
        c.cur_end := null;
    end if;
    c.cur_batch := null;
    c.cur_upto := null;
    c.cur_takeovers := null;
    perform pgque._move(c);
end
$$;
comment on function pgque._finish_batch(pgque.cursor, pgque.subscriber) is
    'Moves a subscriber past its open batch: to the end of the window, or to the place where the batch was cut.';

create or replace function pgque._batch_span(c pgque.cursor, s pgque.subscriber)
returns pgque.span
language plpgsql
as $$
declare
    q pgque.queue;
begin
    select * into q from pgque.queue t where t.queue_id = s.sub_queue;
    return pgque._span(
        q,
        coalesce(s.sub_group, s.sub_id),
        pgque._get_tick(s.sub_queue, c.cur_tick),
        pgque._get_tick(s.sub_queue, c.cur_next_tick),
        c.cur_place,
        c.cur_upto
    );
end
$$;
comment on function pgque._batch_span(pgque.cursor, pgque.subscriber) is 'Returns the span that an open batch covers.';

create or replace function pgque._batch_event(c pgque.cursor, s pgque.subscriber, event_id bigint)
returns pgque.retry_queue
language plpgsql
as $$
declare
    span pgque.span := pgque._batch_span(c, s);
    e pgque.retry_queue;
begin
    if span.queue_id is null then
        return e;
    end if;
    begin
        execute 'select * from pgque._event_' || span.queue_id || '_event($1, $2)'
            into e.ev_id, e.ev_time, e.ev_txid, e.ev_retry, e.ev_type, e.ev_data,
                e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
            using span, event_id;
        raise exception using errcode = 'PQUND'; -- releases the locks on the log, see _events
    exception
        when sqlstate 'PQUND' then null;
    end;
    e.ev_queue := s.sub_queue;
    e.ev_owner := coalesce(s.sub_group, s.sub_id);
    return e;
end
$$;
comment on function pgque._batch_event(pgque.cursor, pgque.subscriber, bigint) is
    'Returns one event of an open batch for the retry queue, without its time. ev_id is NULL if there is none.';

create or replace function pgque._batch_events(batch_id bigint)
returns table (
    ev_id bigint, ev_time timestamptz, ev_txid xid8, ev_retry int, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text
)
language plpgsql
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, false);
    s pgque.subscriber;
begin
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    return query select * from pgque._events(pgque._batch_span(c, s));
exception
    when undefined_table or undefined_function then
        -- Nothing was locked, so the queue may have been dropped since.
        perform pgque._need_batch(batch_id, false);
        if pgque._isolated_from_commits() then
            perform pgque._raise_moved_on('the queue');
        end if;
        raise;
end
$$;
comment on function pgque._batch_events(bigint) is
    'Returns the events of an open batch, by ev_id. Raises PQ003 if the batch is not open.';
