-- Cooperative groups: membership.
--
-- Invariant: a member is a subscriber whose sub_group is the group's row; its name is <group>.<member>. A consumer with
-- members is a group, one without is a normal consumer. share distributes the group's events.
--
-- Locks: the member first, then the group, the same as in a transaction that acks and receives again.

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
comment on function pgque._check_member_name(text, text) is
    'Raises 22023 for a name that cannot be part of <group>.<member>.';

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
comment on function pgque._member(text, text, text) is
    'Returns a member of a group, or a row of NULLs if it does not exist.';

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
    begin
        q := pgque._hold_history(queue);
        main_id := pgque._add_subscriber(q.queue_id, consumer, null, pgque._newest_tick(q));
        if main_id is null then
            main_id := (pgque._subscriber(queue, consumer)).sub_id;
            c := pgque._lock_subscribed(main_id, queue, consumer);
            if exists (select from pgque.subscriber m where m.sub_group = main_id) then
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
        -- Another session was faster. The error releases the group's lock, because the member's lock must be taken
        -- first.
        raise exception using errcode = 'PQUND';
    exception
        when sqlstate 'PQUND' then
            return 0;
    end;
end
$$;
comment on function pgque.register_subconsumer(text, text, text, boolean) is
    'Adds a member to a group, which is created if it does not exist, and returns 1, or 0 if it already is a member. '
    'A normal consumer becomes a group only with convert_normal and without an open batch. Otherwise raises PQ008.';

create or replace function pgque.subscribe_subconsumer(
    queue text, consumer text, subconsumer text, convert_normal boolean default false
)
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque.register_subconsumer(text, text, text, boolean)'::pg_catalog.regprocedure, 'execute') then
        return pgque.register_subconsumer(queue, consumer, subconsumer, convert_normal);
    end if;
    return (pgque._ask(
        'subscribe_subconsumer', array[queue, consumer, subconsumer, convert_normal::pg_catalog.text])).number::pg_catalog.int4;
end
$$;
comment on function pgque.subscribe_subconsumer(text, text, text, boolean) is
    'Same as register_subconsumer, under another name.';

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
        -- All of its piece, including events that a smaller receive left for later.
        c.cur_batch := coalesce(c.cur_batch, nextval('pgque.batch_id_seq'));
        c.cur_upto := c.cur_end;
        c := pgque._move(c);
        for e in select ev_id from pgque._batch_events(c.cur_batch) loop
            perform pgque._nack(c.cur_batch, e.ev_id, null, null);
        end loop;
    end if;
    perform from pgque.subscriber t where t.sub_id = m.sub_group for update;
    delete from pgque.subscriber t where t.sub_id = m.sub_id;
    return 1;
end
$$;
comment on function pgque.unregister_subconsumer(text, text, text, int) is
    'Removes a member and returns 1, or 0 if it does not exist. While the member holds a batch, raises PQ012 or, with '
    'batch_handling 1, first nacks its messages. Without members, the consumer is a normal one again.';

create or replace function pgque.unsubscribe_subconsumer(
    queue text, consumer text, subconsumer text, batch_handling int default 0
)
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque.unregister_subconsumer(text, text, text, int)'::pg_catalog.regprocedure, 'execute') then
        return pgque.unregister_subconsumer(queue, consumer, subconsumer, batch_handling);
    end if;
    return (pgque._ask(
        'unsubscribe_subconsumer', array[queue, consumer, subconsumer, batch_handling::pg_catalog.text])).number::pg_catalog.int4;
end
$$;
comment on function pgque.unsubscribe_subconsumer(text, text, text, int) is
    'Same as unregister_subconsumer, under another name.';

create or replace function pgque._touch_subconsumer(queue text, consumer text, subconsumer text)
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
    return 1; -- a locked row shows that the member is at work, so no sibling takes over
end
$$;
comment on function pgque._touch_subconsumer(text, text, text) is
    'Does the work of touch_subconsumer on any queue, for members of pgque_reader.';

create or replace function pgque.touch_subconsumer(queue text, consumer text, subconsumer text)
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque._touch_subconsumer(text, text, text)'::pg_catalog.regprocedure, 'execute') then
        return pgque._touch_subconsumer(queue, consumer, subconsumer);
    end if;
    return (pgque._ask('touch_subconsumer', array[queue, consumer, subconsumer])).number::pg_catalog.int4;
end
$$;
comment on function pgque.touch_subconsumer(text, text, text) is
    'Reports that a member is alive, so that no sibling takes over its batch, and returns 1, or 0 if the member does '
    'not exist. Never waits.';
