-- Subscriptions: finding, adding and removing them, and moving one to another tick.
--
-- Invariant: a subscription stands at a tick whose history is kept; a new one stands at the newest tick. Whether a
-- consumer is normal or belongs to a group is checked under the lock of its row.

create or replace function pgque._tick_seen(queue_id int, tick_id bigint)
returns pgque.tick
language sql volatile
as $$
    select t from pgque.tick t where t.tick_queue = $1 and t.tick_id = $2 limit 1
$$;
comment on function pgque._tick_seen(int, bigint) is 'Returns a tick by its id, or a row of NULLs if it is not kept.';

create or replace function pgque._passed(queue_id int, tick_id bigint, place pgque.place)
returns bigint
language plpgsql
as $$
declare
    t pgque.tick := pgque._tick_seen(queue_id, tick_id);
begin
    return greatest(t.tick_seq_after, place.id) - coalesce(t.tick_put_back, 0);
end
$$;
comment on function pgque._passed(int, bigint, pgque.place) is
    'Returns how many events of a queue were sent up to a position, without redeliveries, or NULL if the tick is not '
    'kept.';

create or replace function pgque._raise_not_subscribed(queue text, consumer text)
returns void
language plpgsql
as $$
begin
    raise exception 'Not subscriber to queue: %/% (consumer not registered)',
        queue, coalesce(consumer, '<NULL>')
        using errcode = 'PQ002', hint = 'Subscribe it with pgque.subscribe(queue, consumer).';
end
$$;
comment on function pgque._raise_not_subscribed(text, text) is 'Raises PQ002: the consumer is not subscribed.';

create or replace function pgque._subscriber(queue text, consumer text)
returns pgque.subscriber
language plpgsql stable
as $$
declare
    s pgque.subscriber;
begin
    select t.* into s
    from pgque.queue q
    join pgque.consumer c on c.co_name = consumer
    join pgque.subscriber t on t.sub_queue = q.queue_id and t.sub_consumer = c.co_id
    where q.queue_name = _subscriber.queue;
    if not found then
        perform pgque._queue(queue);
        perform pgque._raise_not_subscribed(queue, consumer);
    end if;
    return s;
end
$$;
comment on function pgque._subscriber(text, text) is
    'Returns the subscription with this name. Raises PQ001 or PQ002 if it does not exist.';

create or replace function pgque._lock_subscribed(
    subscriber_id int, queue text, consumer text, no_wait boolean default false
)
returns pgque.cursor
language plpgsql
as $$
declare
    c pgque.cursor := pgque._lock_position(subscriber_id, no_wait);
begin
    if c.cur_sub is null then
        perform pgque._raise_not_subscribed(queue, consumer);
    end if;
    return c;
end
$$;
comment on function pgque._lock_subscribed(int, text, text, boolean) is
    'Locks a subscriber and returns its position. Raises PQ002 with these names if it no longer exists.';

create or replace function pgque._refuse_cooperative(s pgque.subscriber, consumer text)
returns void
language plpgsql
as $$
begin
    if s.sub_group is not null or exists (select from pgque.subscriber m where m.sub_group = s.sub_id) then
        raise exception '% is a cooperative %', consumer,
            case when s.sub_group is not null then 'subconsumer' else 'main consumer' end
            using errcode = 'PQ007',
                hint = 'Use receive_coop, next_batch or unregister_subconsumer with queue, consumer and subconsumer.';
    end if;
end
$$;
comment on function pgque._refuse_cooperative(pgque.subscriber, text) is
    'Raises PQ007 and names the calls to use if the subscription belongs to a cooperative group.';

create or replace function pgque._lock_normal(s pgque.subscriber, queue text, consumer text, no_wait boolean default false)
returns pgque.cursor
language plpgsql
as $$
declare
    c pgque.cursor := pgque._lock_subscribed(s.sub_id, queue, consumer, no_wait);
begin
    -- Checked after the lock, because register_subconsumer takes the same one.
    perform pgque._refuse_cooperative(s, consumer);
    return c;
end
$$;
comment on function pgque._lock_normal(pgque.subscriber, text, text, boolean) is
    'Locks a consumer that is not in a group and returns its position. Raises PQ007 for cooperative names.';

create or replace function pgque._consumer_id(consumer text)
returns int
language plpgsql
as $$
declare
    id int;
begin
    if coalesce(consumer, '') = '' then
        raise exception 'consumer name must not be empty' using errcode = '22023';
    elsif octet_length(consumer) > 2000 then -- the index cannot hold more
        raise exception 'consumer name too long: % bytes (max 2000)', octet_length(consumer) using errcode = '22023';
    end if;
    select n.co_id into id from pgque.consumer n where n.co_name = consumer;
    if not found then
        insert into pgque.consumer (co_name)
        values (consumer)
        on conflict (co_name) do nothing;
        select n.co_id into strict id from pgque.consumer n where n.co_name = consumer;
    end if;
    return id;
end
$$;
comment on function pgque._consumer_id(text) is
    'Returns the id of a consumer name and adds the name if it is new. Raises 22023 for an empty or too long name.';

create or replace function pgque._add_subscriber(queue_id int, consumer text, group_id int, start bigint)
returns int
language plpgsql
as $$
declare
    c pgque.cursor;
begin
    insert into pgque.subscriber (sub_queue, sub_consumer, sub_group)
    values (queue_id, pgque._consumer_id(consumer), group_id)
    on conflict (sub_queue, sub_consumer) do nothing
    returning sub_id into c.cur_sub;
    if c.cur_sub is null then
        return null;
    end if;
    c.cur_seq := 0;
    c.cur_tick := start;
    c.cur_skipped := pgque._passed(queue_id, start, null);
    perform pgque._move(c);
    return c.cur_sub;
end
$$;
comment on function pgque._add_subscriber(int, text, int, bigint) is
    'Subscribes a name at a tick (a member at none) and returns the new sub_id, or NULL if it is already subscribed.';

create or replace function pgque._need_tick(q pgque.queue, wanted bigint)
returns bigint
language plpgsql
as $$
declare
    newest bigint := (pgque._last_tick(q.queue_id)).tick_id;
begin
    -- This transaction has read the ledger, so the ledger is not truncated before the transaction ends.
    if wanted is null or wanted > newest or wanted < q.queue_history_tick
        or not exists (select from pgque.tick t where t.tick_queue = q.queue_id and t.tick_id = wanted)
    then
        raise exception 'tick not found: % in queue %', coalesce(wanted::text, '<NULL>'), q.queue_name
            using errcode = 'PQ011',
                hint = format('The kept history extends from tick %s to tick %s.', q.queue_history_tick, newest);
    end if;
    return wanted;
end
$$;
comment on function pgque._need_tick(pgque.queue, bigint) is
    'Returns the tick''s id if the tick is in the kept history. Raises PQ011 if it is not.';

create or replace function pgque._hold_history(queue text)
returns pgque.queue
language plpgsql
as $$
declare
    q pgque.queue := pgque._queue(queue);
begin
    -- Rotation cannot see a subscription or a position before its commit, so it updates this row before it truncates.
    -- drop_queue locks the row too.
    select * into q from pgque.queue t where t.queue_id = q.queue_id for share;
    if not found then
        raise exception 'queue not found: %', queue
            using errcode = 'PQ001', hint = 'It has just been dropped.';
    end if;
    return q;
end
$$;
comment on function pgque._hold_history(text) is
    'Returns the queue and keeps its log from losing events until this transaction ends, for new positions. Raises '
    'PQ001 if the queue does not exist.';

create or replace function pgque._newest_tick(q pgque.queue)
returns bigint
language plpgsql
as $$
declare
    newest bigint := (pgque._last_tick(q.queue_id)).tick_id;
begin
    if newest is null then
        perform pgque._raise_moved_on('the ticks');
    end if;
    return newest;
end
$$;
comment on function pgque._newest_tick(pgque.queue) is 'Returns the tick at which a new subscriber starts.';

create or replace function pgque.register_consumer(queue text, consumer text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._hold_history(queue);
begin
    return (pgque._add_subscriber(q.queue_id, consumer, null, pgque._newest_tick(q)) is not null)::int;
end
$$;
comment on function pgque.register_consumer(text, text) is
    'Subscribes a consumer at the newest tick and returns 1, or 0 if it is already subscribed.';

create or replace function pgque.register_consumer_at(queue text, consumer text, tick_id bigint)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._hold_history(queue);
begin
    return (pgque._add_subscriber(q.queue_id, consumer, null, pgque._need_tick(q, tick_id)) is not null)::int;
end
$$;
comment on function pgque.register_consumer_at(text, text, bigint) is
    'Subscribes a consumer at a tick in the kept history and returns 1, or 0 if it is already subscribed. Raises '
    'PQ011 for any other tick.';

create or replace function pgque.subscribe(queue text, consumer text)
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque.register_consumer(text, text)'::pg_catalog.regprocedure, 'execute') then
        return pgque.register_consumer(queue, consumer);
    end if;
    return (pgque._ask('subscribe', array[queue, consumer])).number::pg_catalog.int4;
end
$$;
comment on function pgque.subscribe(text, text) is
    'Subscribes a consumer at the newest tick and returns 1, or 0 if it is already subscribed. The consumer receives '
    'the events sent after that tick.';

create or replace function pgque.unregister_consumer(queue text, consumer text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s pgque.subscriber;
begin
    perform pgque._queue(queue);
    begin
        s := pgque._subscriber(queue, consumer);
    exception
        when sqlstate 'PQ002' then
            return 0;
    end;
    perform from pgque.subscriber t where t.sub_id = s.sub_id for update;
    if not found then
        return 0;
    end if;
    perform pgque._refuse_cooperative(s, consumer);
    delete from pgque.retry_queue where ev_owner = s.sub_id;
    delete from pgque.subscriber where sub_id = s.sub_id;
    return 1;
end
$$;
comment on function pgque.unregister_consumer(text, text) is
    'Ends a subscription, deletes its retries and returns 1, or 0 if the consumer was not subscribed. Dead letters '
    'stay.';

create or replace function pgque.unsubscribe(queue text, consumer text)
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque.unregister_consumer(text, text)'::pg_catalog.regprocedure, 'execute') then
        return pgque.unregister_consumer(queue, consumer);
    end if;
    return (pgque._ask('unsubscribe', array[queue, consumer])).number::pg_catalog.int4;
end
$$;
comment on function pgque.unsubscribe(text, text) is 'Same as unregister_consumer, under a shorter name.';

-- Seek
create or replace function pgque._seek(queue text, consumer text, tick_id bigint, at timestamptz)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s pgque.subscriber := pgque._subscriber(queue, consumer);
    q pgque.queue;
    c pgque.cursor;
    skipped bigint;
begin
    if s.sub_group is not null then
        perform pgque._refuse_cooperative(s, consumer);
    end if;
    q := pgque._hold_history(queue);
    c := pgque._lock_subscribed(s.sub_id, queue, consumer);
    if c.cur_batch is not null or exists (
        select
        from pgque.subscriber m
        where m.sub_group = s.sub_id
            and (pgque._position(m.sub_id)).cur_next_tick is not null
    ) then
        raise exception 'consumer % on queue % holds a batch', consumer, queue
            using errcode = 'PQ012', hint = 'Finish it with pgque.ack(batch_id) before you seek.';
    end if;
    if at is not null then
        -- If the clock was set back, some times occur twice. The first occurrence counts, so that no event is skipped.
        select t.tick_id into tick_id
        from pgque.tick t
        where t.tick_queue = q.queue_id
            and t.tick_id < coalesce((
                select later.tick_id
                from pgque.tick later
                where later.tick_queue = q.queue_id
                    and later.tick_id >= q.queue_history_tick
                    and later.tick_time > at
                order by later.tick_id
                limit 1
            ), 9223372036854775807)
        order by t.tick_id desc
        limit 1;
        if tick_id is null then
            raise exception 'tick not found: none in queue % is as old as %', queue, at
                using errcode = 'PQ011', hint = format('Seek to tick %s, the oldest kept tick.', q.queue_history_tick);
        end if;
    end if;
    skipped := pgque._passed(q.queue_id, c.cur_tick, c.cur_place);
    c.cur_tick := pgque._need_tick(q, tick_id);
    c.cur_skipped := coalesce(c.cur_skipped, 0) + coalesce(pgque._passed(q.queue_id, c.cur_tick, null) - skipped, 0);
    c.cur_next_tick := null;
    c.cur_place := null;
    perform pgque._move(c);
    return c.cur_tick;
end
$$;
comment on function pgque._seek(text, text, bigint, timestamptz) is
    'Moves a consumer to a tick, or to the last tick at a time, and returns the tick.';

create or replace function pgque._seek_to(queue text, consumer text, tick_id bigint, at timestamptz)
returns bigint
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque._seek(text, text, bigint, timestamptz)'::pg_catalog.regprocedure, 'execute') then
        return pgque._seek(queue, consumer, tick_id, at);
    end if;
    return (pgque._ask('seek', array[queue, consumer, tick_id::pg_catalog.text, pg_catalog.to_jsonb(at) #>> '{}'])).number;
end
$$;
comment on function pgque._seek_to(text, text, bigint, timestamptz) is
    'Serves both seek functions, with the rights of their caller.';

create or replace function pgque.seek(queue text, consumer text, tick_id bigint)
returns bigint
language sql
as $$
    select pgque._seek_to(queue, consumer, tick_id, null)
$$;
comment on function pgque.seek(text, text, bigint) is
    'Moves a consumer to a tick in the kept history and returns the tick. Raises PQ011 for any other tick and PQ012 '
    'while the consumer holds a batch.';

create or replace function pgque.seek(queue text, consumer text, at timestamptz)
returns bigint
language sql
as $$
    select pgque._seek_to(queue, consumer, null, at)
$$;
comment on function pgque.seek(text, text, timestamptz) is
    'Moves a consumer to the last tick at or before a time, so that it receives the events sent after that time, and '
    'returns the tick. Raises PQ011 if no kept tick is that old and PQ012 while the consumer holds a batch.';
