-- Cooperative groups: how members share the group's events.
--
-- Invariant: the group has one cursor. It moves when a member gets a piece of a window, under the locks of the member and the
-- group, in a transaction that should be short. The member's own cursor holds the piece until it is acked; no other
-- session waits for it. A takeover moves the piece to another member under a new batch id, which voids the old id.
--
-- Locks: the member first, then the group. A sibling's row is taken only with SKIP LOCKED: its holder is at work, not dead.

create or replace function pgque._dead_sibling(m pgque.subscriber, dead_interval interval, lock boolean)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    sibling record;
    c pgque.cursor;
begin
    for sibling in
        select t.sub_id
        from pgque.subscriber t
        where t.sub_group = m.sub_group
            and t.sub_id <> m.sub_id
        order by t.sub_id
    loop
        c := pgque._position(sibling.sub_id);
        if c.cur_next_tick is not null and pgque._is_far(c.cur_time, dead_interval) then
            if not lock then
                return c;
            end if;
            perform from pgque.subscriber t where t.sub_id = sibling.sub_id for update skip locked;
            if found then
                c := pgque._lock_position(sibling.sub_id);
                if c.cur_next_tick is not null and pgque._is_far(c.cur_time, dead_interval) then
                    return c;
                end if;
            end if;
        end if;
    end loop;
    return null;
end
$$;
comment on function pgque._dead_sibling(pgque.subscriber, interval, boolean) is
    'Returns a sibling that holds a batch and was last seen at least dead_interval ago, locked if lock is true, or a '
    'row of NULLs if there is none.';

create or replace function pgque._take_over(c pgque.cursor, dead pgque.cursor)
returns pgque.cursor
language plpgsql
as $$
begin
    c.cur_tick := dead.cur_tick;
    c.cur_next_tick := dead.cur_next_tick;
    c.cur_place := dead.cur_place;
    c.cur_end := dead.cur_end;
    c.cur_takeovers := coalesce(dead.cur_takeovers, 0) + 1;
    dead.cur_tick := null;
    dead.cur_next_tick := null;
    dead.cur_place := null;
    dead.cur_end := null;
    dead.cur_batch := null;
    dead.cur_upto := null;
    dead.cur_takeovers := null;
    perform pgque._move(dead);
    return c;
end
$$;
comment on function pgque._take_over(pgque.cursor, pgque.cursor) is
    'Gives the piece of a dead sibling to a member and returns the member''s row, which the caller must write. The '
    'old batch id becomes void.';

create or replace function pgque._need_member(
    queue text, consumer text, subconsumer text, dead_interval interval
)
returns pgque.subscriber
language plpgsql
as $$
declare
    m pgque.subscriber;
begin
    if dead_interval < interval '0' then
        raise exception 'dead_interval must be >= 0' using errcode = '22023';
    end if;
    m := pgque._member(queue, consumer, subconsumer);
    if m.sub_id is null then
        perform pgque.register_subconsumer(queue, consumer, subconsumer);
        m := pgque._member(queue, consumer, subconsumer);
    end if;
    return m;
end
$$;
comment on function pgque._need_member(text, text, text, interval) is
    'Returns the member and registers it if it does not exist.';

create or replace function pgque._has_member_work(m pgque.subscriber, dead_interval interval)
returns boolean
language plpgsql
as $$
declare
    main pgque.subscriber;
    newest pgque.tick := pgque._last_tick(m.sub_queue);
begin
    select * into main from pgque.subscriber t where t.sub_id = m.sub_group;
    return pgque._is_from_the_future(newest.tick_snapshot) is not true -- otherwise see _open_batch
        and (
            (pgque._position(m.sub_id)).cur_next_tick is not null
            or pgque._has_work(main, newest.tick_id)
            or (dead_interval is not null and (pgque._dead_sibling(m, dead_interval, false)).cur_sub is not null)
        );
end
$$;
comment on function pgque._has_member_work(pgque.subscriber, interval) is
    'Returns true if it is worth locking the member. Only reads.';

create or replace function pgque._share(
    queue text, consumer text, subconsumer text, max_return int, dead_interval interval, merged boolean
)
returns pgque.span
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgque.subscriber;
    c pgque.cursor; -- the member's
    g pgque.cursor; -- the group's
    dead pgque.cursor;
    q pgque.queue;
    earlier pgque.tick;
    later pgque.tick;
    span pgque.span;
    something boolean;
    moved boolean := false;
begin
    perform pgque._check_max_return(max_return);
    m := pgque._need_member(queue, consumer, subconsumer, dead_interval);
    if not pgque._has_member_work(m, dead_interval) then
        return null;
    end if;
    c := pgque._lock_subscribed(m.sub_id, queue, consumer || '.' || subconsumer);
    select * into q from pgque.queue t where t.queue_id = m.sub_queue;
    loop
        if c.cur_next_tick is null and g.cur_sub is null then
            g := pgque._lock_position(m.sub_group);
            if dead_interval is not null then
                dead := pgque._dead_sibling(m, dead_interval, true);
                if dead.cur_sub is not null then
                    c := pgque._take_over(c, dead);
                end if;
            end if;
        end if;
        if c.cur_next_tick is not null then
            earlier := pgque._get_tick(m.sub_queue, c.cur_tick);
            later := pgque._get_tick(m.sub_queue, c.cur_next_tick);
        else
            earlier := pgque._get_tick(m.sub_queue, g.cur_tick);
            if g.cur_next_tick is not null then
                later := pgque._get_tick(m.sub_queue, g.cur_next_tick);
            else
                later := pgque._window_end(m.sub_queue, earlier, case when merged then max_return end);
                exit when later.tick_id is null;
            end if;
        end if;
        span := pgque._span(
            q, m.sub_group, earlier, later,
            case when c.cur_next_tick is not null then c.cur_place else g.cur_place end, c.cur_end);
        something := pgque._holds_events(span);
        if something then
            span := pgque._cut(span, max_return);
        end if;
        if c.cur_next_tick is null then
            -- A new piece: the group continues after it.
            if something then
                c.cur_tick := g.cur_tick;
                c.cur_next_tick := later.tick_id;
                c.cur_place := g.cur_place;
                c.cur_end := span.upto;
            end if;
            if something and (span.upto).txid is not null then
                g.cur_next_tick := later.tick_id;
                g.cur_place := span.upto;
            else
                if moved and not something then
                    later := pgque._pass_over_nothing(q, m.sub_group, later);
                end if;
                g.cur_tick := later.tick_id;
                g.cur_next_tick := null;
                g.cur_place := null;
            end if;
            moved := true;
        end if;
        if something then
            span.batch_id := c.cur_batch;
            if c.cur_batch is null or not pgque._same_place(c.cur_upto, span.upto) then
                span.batch_id := nextval('pgque.batch_id_seq'); -- another extent needs another id: see _open_batch
                c.cur_batch := span.batch_id;
                c.cur_upto := span.upto;
                perform pgque._move(c);
            end if;
            exit;
        elsif c.cur_next_tick is not null then
            -- Nothing is left in the piece that was held or taken over, so it is done.
            c.cur_tick := null;
            c.cur_next_tick := null;
            c.cur_place := null;
            c.cur_end := null;
            c.cur_batch := null;
            c.cur_upto := null;
            c.cur_takeovers := null;
            c := pgque._move(c);
        end if;
    end loop;
    if moved then
        perform pgque._move(g);
    end if;
    return case when something then span end;
end
$$;
comment on function pgque._share(text, text, text, int, interval, boolean) is
    'Gives a member its open batch again, a dead sibling''s batch, or the next piece of the group''s events. Returns '
    'the span of that batch, or NULL if nothing is ready.';

create or replace function pgque.receive_coop(
    queue text, consumer text, subconsumer text, max_return int default 100,
    dead_interval interval default null
)
returns setof pgque.message
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    span pgque.span;
begin
    if not has_function_privilege('pgque._share(text, text, text, int, interval, boolean)'::regprocedure, 'execute') then
        return query
        select * from unnest((pgque._ask(
            'receive_coop', array[queue, consumer, subconsumer, max_return::text, dead_interval::text])).messages);
        return;
    end if;
    span := pgque._share(queue, consumer, subconsumer, max_return, dead_interval, false);
    if span.batch_id is not null then
        return query execute pgque._messages_sql(span) using span;
    end if;
end
$$;
comment on function pgque.receive_coop(text, text, text, int, interval) is
    'Returns the next piece of a group''s events for one member, or its open batch again: at most max_return messages '
    'of one window. Registers the group and the member if they do not exist. Commit before you handle the messages, '
    'because the group waits until then. With dead_interval, takes over the batch of a sibling that was last seen at '
    'least that long ago.';

create or replace function pgque.receive_coop_merged(
    queue text, consumer text, subconsumer text, max_return int default 100,
    dead_interval interval default null
)
returns setof pgque.message
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    span pgque.span;
begin
    if not has_function_privilege('pgque._share(text, text, text, int, interval, boolean)'::regprocedure, 'execute') then
        return query
        select * from unnest((pgque._ask(
            'receive_coop_merged', array[queue, consumer, subconsumer, max_return::text, dead_interval::text])).messages);
        return;
    end if;
    span := pgque._share(queue, consumer, subconsumer, max_return, dead_interval, true);
    if span.batch_id is not null then
        return query execute pgque._messages_sql(span) using span;
    end if;
end
$$;
comment on function pgque.receive_coop_merged(text, text, text, int, interval) is
    'Same as receive_coop, for loops: returns several ready windows as one batch of at most max_return messages.';
