-- Cooperative groups: several members share one consumer's events.
--
-- Invariant: the group has one cursor, and it moves when a piece of a window is given to a member,
-- under the locks of the member and of the group, in a transaction that should be short. The member
-- has a cursor of its own, which holds that piece until it is acked; nobody waits for it meanwhile.
-- A takeover moves the piece to another member under a new batch id, which makes the old id void.
--
-- Locks: the member first, then the group, as in a transaction that acks and receives again. A
-- sibling's row is only taken with SKIP LOCKED: who holds it is at work and not dead.

create or replace function pgque._check_member_name(part text, name text)
returns void
language plpgsql
as $$
begin
    if coalesce(name, '') = '' then
        raise exception '% name must not be empty', part using errcode = '22023';
    elsif position('.' in name) > 0 then
        raise exception '% name must not contain a dot: %', part, name using errcode = '22023';
    end if;
end
$$;
comment on function pgque._check_member_name(text, text) is '22023 for a name that cannot be part of <group>.<member>.';

create or replace function pgque._member(queue text, consumer text, subconsumer text)
returns pgque.subscriber
language plpgsql stable
as $$
declare
    s pgque.subscriber;
begin
    select m.* into s
    from pgque.queue q
    join pgque.consumer c on c.co_name = consumer || '.' || subconsumer
    join pgque.subscriber m on m.sub_queue = q.queue_id and m.sub_consumer = c.co_id
    where q.queue_name = _member.queue
        and m.sub_group is not null;
    return s;
end
$$;
comment on function pgque._member(text, text, text) is 'A member of a group; a row of NULLs where there is none.';

create or replace function pgque.register_subconsumer(
    queue text, consumer text, subconsumer text, convert_normal boolean default false
)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
    main_id int;
    c pgque.cursor;
begin
    perform pgque._check_member_name('consumer', consumer);
    perform pgque._check_member_name('subconsumer', subconsumer);
    if (pgque._member(queue, consumer, subconsumer)).sub_id is not null then
        return 0;
    end if;
    q := pgque._hold_history(queue);
    main_id := pgque._add_subscriber(q.queue_id, consumer, null, pgque._newest_tick(q));
    if main_id is null then
        main_id := (pgque._subscriber(queue, consumer)).sub_id;
        c := pgque._lock_position(main_id);
        if c.cur_sub is null then
            perform pgque._raise_not_subscribed(queue, consumer);
        elsif exists (select from pgque.subscriber m where m.sub_group = main_id) then
            null;
        elsif not coalesce(convert_normal, false) then
            raise exception 'consumer % on queue % is already a normal consumer', consumer, queue
                using errcode = 'PQ008',
                    hint = 'Make it a group with pgque.register_subconsumer(queue, consumer, subconsumer, true).';
        elsif c.cur_batch is not null then
            raise exception 'cannot convert active normal consumer % on queue %', consumer, queue
                using errcode = 'PQ008', hint = 'Finish its batch with pgque.ack(batch_id) first.';
        end if;
    end if;
    if pgque._add_subscriber(q.queue_id, consumer || '.' || subconsumer, main_id, null) is not null then
        return 1;
    elsif (pgque._member(queue, consumer, subconsumer)).sub_id is null then
        raise exception 'consumer % on queue % is already a normal consumer',
            consumer || '.' || subconsumer, queue
            using errcode = 'PQ008', hint = 'Choose another name for the subconsumer.';
    end if;
    return 0;
end
$$;
comment on function pgque.register_subconsumer(text, text, text, boolean) is
    'Adds a member to a group, which is made where it is missing: 1; 0 where it is a member already. '
    'A consumer that works alone becomes a group only with convert_normal and without an open batch (PQ008).';

create or replace function pgque.subscribe_subconsumer(
    queue text, consumer text, subconsumer text, convert_normal boolean default false
)
returns int
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select pgque.register_subconsumer(queue, consumer, subconsumer, convert_normal)
$$;
comment on function pgque.subscribe_subconsumer(text, text, text, boolean) is 'register_subconsumer under another name.';

create or replace function pgque.unregister_subconsumer(
    queue text, consumer text, subconsumer text, batch_handling int default 0
)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgque.subscriber;
    c pgque.cursor;
    e record;
begin
    if batch_handling is null or batch_handling not in (0, 1) then
        raise exception 'unsupported batch_handling value: %', coalesce(batch_handling::text, '<NULL>')
            using errcode = '22023', hint = '0 refuses while the subconsumer holds a batch, 1 nacks its messages.';
    end if;
    perform pgque._queue(queue);
    m := pgque._member(queue, consumer, subconsumer);
    if m.sub_id is not null then
        c := pgque._lock_position(m.sub_id);
    end if;
    if c.cur_sub is null then
        return 0;
    end if;
    if c.cur_next_tick is not null and batch_handling = 0 then
        raise exception 'subconsumer % of consumer % on queue % holds a batch: %',
            subconsumer, consumer, queue, c.cur_batch
            using errcode = 'PQ012',
                hint = 'Finish it with pgque.ack(batch_id), or pass batch_handling 1 to nack its messages.';
    elsif c.cur_next_tick is not null then
        -- All of its piece, also what a smaller receive left for later.
        c.cur_batch := coalesce(c.cur_batch, nextval('pgque.batch_id_seq'));
        c.cur_upto := c.cur_end;
        c := pgque._move(c);
        for e in select ev_id from pgque._batch_events(c.cur_batch) loop
            perform pgque.nack(c.cur_batch, row(e.ev_id, null, null, null, null, null, null, null, null, null)::pgque.message);
        end loop;
    end if;
    perform from pgque.subscriber t where t.sub_id = m.sub_group for update;
    delete from pgque.subscriber t where t.sub_id = m.sub_id;
    return 1;
end
$$;
comment on function pgque.unregister_subconsumer(text, text, text, int) is
    'Removes a member: 1; 0 where there is none. While it holds a batch: PQ012, or with batch_handling 1 its messages '
    'are nacked first. Without members the consumer is a normal one again.';

create or replace function pgque.unsubscribe_subconsumer(
    queue text, consumer text, subconsumer text, batch_handling int default 0
)
returns int
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select pgque.unregister_subconsumer(queue, consumer, subconsumer, batch_handling)
$$;
comment on function pgque.unsubscribe_subconsumer(text, text, text, int) is 'unregister_subconsumer under another name.';

create or replace function pgque.touch_subconsumer(queue text, consumer text, subconsumer text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgque.subscriber;
    c pgque.cursor;
begin
    perform pgque._queue(queue);
    m := pgque._member(queue, consumer, subconsumer);
    if m.sub_id is null then
        return 0;
    end if;
    perform from pgque.subscriber t where t.sub_id = m.sub_id for update skip locked;
    if found then
        c := pgque._lock_position(m.sub_id);
        perform pgque._move(c);
    end if;
    return 1; -- whoever holds the row is the member at work: nobody takes over from it
end
$$;
comment on function pgque.touch_subconsumer(text, text, text) is
    'Says that a member is alive, so that nobody takes its batch over: 1; 0 where there is no such member. Never waits.';

-- Allocation

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
        if c.cur_next_tick is not null and c.cur_time < clock_timestamp() - dead_interval then
            if not lock then
                return c;
            end if;
            perform from pgque.subscriber t where t.sub_id = sibling.sub_id for update skip locked;
            if found then
                c := pgque._lock_position(sibling.sub_id);
                if c.cur_next_tick is not null and c.cur_time < clock_timestamp() - dead_interval then
                    return c;
                end if;
            end if;
        end if;
    end loop;
    return null;
end
$$;
comment on function pgque._dead_sibling(pgque.subscriber, interval, boolean) is
    'A sibling that holds a batch and was not seen for so long, locked or not; a row of NULLs where there is none.';

create or replace function pgque._take_over(c pgque.cursor, dead pgque.cursor)
returns pgque.cursor
language plpgsql
as $$
begin
    c.cur_tick := dead.cur_tick;
    c.cur_next_tick := dead.cur_next_tick;
    c.cur_place := dead.cur_place;
    c.cur_end := dead.cur_end;
    dead.cur_tick := null;
    dead.cur_next_tick := null;
    dead.cur_place := null;
    dead.cur_end := null;
    dead.cur_batch := null;
    dead.cur_upto := null;
    perform pgque._move(dead);
    return c;
end
$$;
comment on function pgque._take_over(pgque.cursor, pgque.cursor) is
    'Gives the piece of a dead sibling to a member, whose row is still to be written. The old batch id is void.';

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
comment on function pgque._need_member(text, text, text, interval) is 'The member, registered where it is missing.';

create or replace function pgque._has_member_work(m pgque.subscriber, dead_interval interval)
returns boolean
language plpgsql
as $$
declare
    main pgque.subscriber;
begin
    select * into main from pgque.subscriber t where t.sub_id = m.sub_group;
    return (pgque._position(m.sub_id)).cur_next_tick is not null
        or pgque._has_work(main)
        or (dead_interval is not null and (pgque._dead_sibling(m, dead_interval, false)).cur_sub is not null);
end
$$;
comment on function pgque._has_member_work(pgque.subscriber, interval) is 'Whether it is worth locking the member: reads only.';

create or replace function pgque._receive_coop(
    queue text, consumer text, subconsumer text, max_return int, dead_interval interval, merged boolean
)
returns setof pgque.message
language plpgsql
as $$
declare
    m pgque.subscriber;
    c pgque.cursor; -- the member's
    g pgque.cursor; -- the group's
    dead pgque.cursor;
    q pgque.queue;
    earlier pgque.tick;
    later pgque.tick;
    message pgque.message;
    rows int;
    moved boolean := false;
begin
    perform pgque._check_max_return(max_return);
    m := pgque._need_member(queue, consumer, subconsumer, dead_interval);
    if not pgque._has_member_work(m, dead_interval) then
        return;
    end if;
    c := pgque._lock_position(m.sub_id);
    if c.cur_sub is null then
        perform pgque._raise_not_subscribed(queue, consumer || '.' || subconsumer);
    end if;
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
        if c.cur_batch is not null and c.cur_upto is distinct from pgque._extent(
            q, m.sub_group, earlier, later, c.cur_place, c.cur_end, max_return)
        then
            c.cur_batch := null; -- another extent is another batch: see _extent
        end if;
        message.batch_id := coalesce(c.cur_batch, nextval('pgque.batch_id_seq'));
        rows := 0;
        for message.msg_id, message.created_at, message.retry_count, message.type, message.payload,
            message.extra1, message.extra2, message.extra3, message.extra4 in
            select ev_id, ev_time, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4
            from pgque._events(
                q, m.sub_group, earlier, later,
                case when c.cur_next_tick is not null then c.cur_place else g.cur_place end,
                c.cur_end, max_return)
        loop
            rows := rows + 1;
            return next message;
        end loop;
        if c.cur_next_tick is null then
            -- A new piece: the group goes on behind it.
            if rows > 0 then
                c.cur_tick := g.cur_tick;
                c.cur_next_tick := later.tick_id;
                c.cur_place := g.cur_place;
                c.cur_end := case when rows = max_return then message.msg_id end;
            end if;
            if rows = max_return then
                g.cur_next_tick := later.tick_id;
                g.cur_place := message.msg_id;
            else
                if rows = 0 and moved then
                    later := pgque._pass_over_nothing(q, m.sub_group, later);
                end if;
                g.cur_tick := later.tick_id;
                g.cur_next_tick := null;
                g.cur_place := null;
            end if;
            moved := true;
        end if;
        if rows > 0 then
            if c.cur_batch is null then
                c.cur_batch := message.batch_id;
                c.cur_upto := case when rows = max_return then message.msg_id else c.cur_end end;
                perform pgque._move(c);
            end if;
            exit;
        elsif c.cur_next_tick is not null then
            -- Nothing left in a piece that was held or taken over: it is done.
            c.cur_tick := null;
            c.cur_next_tick := null;
            c.cur_place := null;
            c.cur_end := null;
            c.cur_batch := null;
            c.cur_upto := null;
            c := pgque._move(c);
        end if;
    end loop;
    if moved then
        perform pgque._move(g);
    end if;
end
$$;
comment on function pgque._receive_coop(text, text, text, int, interval, boolean) is
    'Gives a member its open batch again, a dead sibling''s batch, or the next piece of the group''s events.';

create or replace function pgque.receive_coop(
    queue text, consumer text, subconsumer text, max_return int default 100,
    dead_interval interval default null
)
returns setof pgque.message
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select * from pgque._receive_coop(queue, consumer, subconsumer, max_return, dead_interval, false);
end
$$;
comment on function pgque.receive_coop(text, text, text, int, interval) is
    'The next piece of a group''s events for one member, or its open batch again: at most max_return messages of one window. '
    'Registers group and member where they are missing. Commit before the messages are handled: the group waits until then. '
    'With dead_interval the batch of a sibling that was not seen for so long is taken over.';

create or replace function pgque.receive_coop_merged(
    queue text, consumer text, subconsumer text, max_return int default 100,
    dead_interval interval default null
)
returns setof pgque.message
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select * from pgque._receive_coop(queue, consumer, subconsumer, max_return, dead_interval, true);
end
$$;
comment on function pgque.receive_coop_merged(text, text, text, int, interval) is
    'receive_coop for a loop: several ready windows as one batch of at most max_return messages.';
