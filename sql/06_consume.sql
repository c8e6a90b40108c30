-- Consuming: subscribe, receive, ack, seek, and PgQ's calls for the same.
--
-- Invariant: what ack covers is what the batch returned last, no more: a batch that was cut at
-- max_return ends where it was cut (cur_upto), and the next one goes on from there in the same
-- window. A look for work takes no lock and writes nothing.

create or replace function pgque._consumer_id(consumer text)
returns int
language plpgsql
as $$
declare
    id int;
begin
    if coalesce(consumer, '') = '' then
        raise exception 'consumer name must not be empty' using errcode = '22023';
    elsif octet_length(consumer) > 2000 then -- what the index can hold
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
comment on function pgque._consumer_id(text) is 'The id of a consumer name, made where it is new.';

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
    perform pgque._move(c);
    return c.cur_sub;
end
$$;
comment on function pgque._add_subscriber(int, text, int, bigint) is
    'Subscribes a name at a tick (a member: at none): the new sub_id, NULL where it is subscribed already.';

create or replace function pgque._need_tick(q pgque.queue, wanted bigint)
returns bigint
language plpgsql
as $$
declare
    newest bigint := (pgque._last_tick(q.queue_id)).tick_id;
begin
    -- Having read the ledger, this transaction keeps it from being truncated until it ends.
    if wanted is null or wanted > newest or wanted < q.queue_history_tick
        or not exists (select from pgque.tick t where t.tick_queue = q.queue_id and t.tick_id = wanted)
    then
        raise exception 'tick not found: % in queue %', coalesce(wanted::text, '<NULL>'), q.queue_name
            using errcode = 'PQ011',
                hint = format('The history that is kept goes from tick %s to %s.', q.queue_history_tick, newest);
    end if;
    return wanted;
end
$$;
comment on function pgque._need_tick(pgque.queue, bigint) is 'The tick, if it lies in the history that is kept: else PQ011.';

create or replace function pgque._hold_history(queue text)
returns pgque.queue
language plpgsql
as $$
declare
    q pgque.queue := pgque._queue(queue);
begin
    -- Rotation, which cannot see a subscription or a position before its commit, updates this row before
    -- it truncates; and drop_queue locks it.
    select * into q from pgque.queue t where t.queue_id = q.queue_id for share;
    if not found then
        raise exception 'queue not found: %', queue
            using errcode = 'PQ001', hint = 'It was dropped in this moment.';
    end if;
    return q;
end
$$;
comment on function pgque._hold_history(text) is
    'The queue, whose log loses nothing until this transaction ends: for new positions. PQ001.';

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
comment on function pgque._newest_tick(pgque.queue) is 'The tick at which a new subscriber stands.';

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
    'Subscribes a consumer at the newest tick: 1; 0 where it is subscribed already.';

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
    'Subscribes a consumer at a tick within the history that is kept: 1; 0 where it is subscribed already; else PQ011.';

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
    'Subscribes a consumer at the newest tick: 1; 0 where it is subscribed already. Events sent later are delivered.';

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
    'Ends a subscription and forgets its retries; dead letters stay: 1; 0 where it was not subscribed.';

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
comment on function pgque.unsubscribe(text, text) is 'unregister_consumer under the shorter name.';

-- Receiving

create or replace function pgque._has_work(s pgque.subscriber, newest bigint)
returns boolean
language plpgsql
as $$
declare
    c pgque.cursor := pgque._position(s.sub_id);
begin
    return c.cur_sub is null -- let the locked path find out why
        or c.cur_batch is not null
        or c.cur_next_tick is not null
        or c.cur_tick < newest
        or pgque._isolated_from_commits();
end
$$;
comment on function pgque._has_work(pgque.subscriber, bigint) is
    'Whether it is worth locking the subscriber, newest being the newest tick: reads only.';

create or replace function pgque._check_max_return(max_return int)
returns void
language plpgsql
as $$
begin
    if max_return is null or max_return < 1 then
        raise exception 'max_return must be >= 1' using errcode = '22023';
    end if;
end
$$;
comment on function pgque._check_max_return(int) is '22023 unless max_return is at least 1.';

create or replace function pgque._messages_sql(s pgque.span)
returns text
language sql immutable
as $$
    select 'select * from pgque._event_' || s.queue_id || '_messages($1)'
$$;
comment on function pgque._messages_sql(pgque.span) is 'The query for the messages of a span, which is its parameter.';

-- An ack by whoever received an open batch before would cover events that he has not seen, or fewer than
-- he handled, if the batch now ended elsewhere. So where another max_return changes its extent it gets a
-- new id.
create or replace function pgque._open_batch(queue text, consumer text, max_return int, merged boolean, empty_batch bigint)
returns pgque.span
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s pgque.subscriber;
    c pgque.cursor;
    q pgque.queue;
    earlier pgque.tick;
    later pgque.tick;
    newest bigint;
    span pgque.span;
    moved boolean := false;
begin
    perform pgque._check_max_return(max_return);
    s := pgque._subscriber(queue, consumer);
    perform pgque._refuse_cooperative(s, consumer);
    newest := (pgque._last_tick(s.sub_queue)).tick_id;
    if not pgque._has_work(s, newest) then
        return null;
    end if;
    c := pgque._lock_normal(s, queue, consumer, merged);
    select * into q from pgque.queue t where t.queue_id = s.sub_queue;
    earlier := pgque._get_tick(s.sub_queue, c.cur_tick);
    loop
        if c.cur_next_tick is not null then
            later := pgque._get_tick(s.sub_queue, c.cur_next_tick);
        else
            later := pgque._window_end(s.sub_queue, earlier, case when merged then max_return end, newest);
            exit when later.tick_id is null;
        end if;
        span := pgque._span(q, s.sub_id, earlier, later, c.cur_place, null);
        -- That there is something in the first window is found out by reading it.
        if span.queue_id is not null and (c.cur_batch is distinct from empty_batch or empty_batch is null) then
            if not moved or pgque._holds_events(span) then
                if span.at_most > max_return or span.at_most is null then
                    span := pgque._cut(span, max_return);
                end if;
                span.batch_id := c.cur_batch;
                if c.cur_batch is null or not pgque._same_place(c.cur_upto, span.upto) then
                    span.batch_id := nextval('pgque.batch_id_seq');
                    c.cur_batch := span.batch_id;
                    c.cur_next_tick := later.tick_id;
                    c.cur_upto := span.upto;
                    perform pgque._move(c);
                end if;
                return span;
            end if;
        end if;
        -- Nothing in it for this consumer: finished here and now, and on to the next window.
        earlier := case when moved then pgque._pass_over_nothing(q, s.sub_id, later) else later end;
        c.cur_tick := earlier.tick_id;
        c.cur_next_tick := null;
        c.cur_place := null;
        c.cur_batch := null;
        c.cur_upto := null;
        moved := true;
    end loop;
    if moved then
        perform pgque._move(c);
    end if;
    return null;
end
$$;
comment on function pgque._open_batch(text, text, int, boolean, bigint) is
    'Opens the next batch or finds the open one again: its span, at most max_return events of one window; NULL where nothing is '
    'ready. empty_batch is the one that this transaction has just opened and found to be empty.';

create or replace function pgque.receive(queue text, consumer text, max_return int default 100)
returns setof pgque.message
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    span pgque.span;
begin
    if not has_function_privilege('pgque._open_batch(text, text, int, boolean, bigint)'::regprocedure, 'execute') then
        return query select * from unnest((pgque._ask('receive', array[queue, consumer, max_return::text])).messages);
        return;
    end if;
    loop
        span := pgque._open_batch(queue, consumer, max_return, false, span.batch_id);
        exit when span.batch_id is null;
        return query execute pgque._messages_sql(span) using span;
        exit when found;
    end loop;
end
$$;
comment on function pgque.receive(text, text, int) is
    'The next batch, or the open one again until it is acked: at most max_return messages of one tick window, by msg_id. '
    'An empty result means that nothing is ready. Waits while another transaction handles a batch of this consumer.';

create or replace function pgque.receive_merged(queue text, consumer text, max_return int default 100)
returns setof pgque.message
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    span pgque.span;
begin
    if not has_function_privilege('pgque._open_batch(text, text, int, boolean, bigint)'::regprocedure, 'execute') then
        return query select * from unnest((pgque._ask('receive_merged', array[queue, consumer, max_return::text])).messages);
        return;
    end if;
    loop
        span := pgque._open_batch(queue, consumer, max_return, true, span.batch_id);
        exit when span.batch_id is null;
        return query execute pgque._messages_sql(span) using span;
        exit when found;
    end loop;
end
$$;
comment on function pgque.receive_merged(text, text, int) is
    'receive for a loop: several ready windows as one batch of at most max_return messages, and 55P03 at once, '
    'rather than a wait, while another transaction handles a batch of this consumer.';

create or replace function pgque.finish_batch(batch_id bigint)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._find_batch(batch_id, true);
    s pgque.subscriber;
begin
    if c.cur_sub is null then
        raise warning 'batch % is not open: it was finished or taken over, or never existed', batch_id;
        return 0;
    end if;
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    perform pgque._finish_batch(c, s);
    return 1;
end
$$;
comment on function pgque.finish_batch(bigint) is 'ack under PgQ''s name.';

create or replace function pgque.ack(batch_id bigint)
returns int
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque.finish_batch(bigint)'::pg_catalog.regprocedure, 'execute') then
        return pgque.finish_batch(batch_id);
    end if;
    return (pgque._ask('ack', array[batch_id::pg_catalog.text])).number::pg_catalog.int4;
end
$$;
comment on function pgque.ack(bigint) is
    'Finishes a batch, so that what it returned is never delivered to this consumer again: 1; 0 with a WARNING where '
    'the batch is not open.';

create or replace function pgque._ack_or_fail(batch_id bigint)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, true);
    s pgque.subscriber;
begin
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    perform pgque._finish_batch(c, s);
end
$$;
comment on function pgque._ack_or_fail(bigint) is 'ack_or_fail for members of pgque_reader, on any batch.';

create or replace function pgque.ack_or_fail(batch_id bigint)
returns void
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque._ack_or_fail(bigint)'::pg_catalog.regprocedure, 'execute') then
        perform pgque._ack_or_fail(batch_id);
    else
        perform pgque._ask('ack_or_fail', array[batch_id::pg_catalog.text]);
    end if;
end
$$;
comment on function pgque.ack_or_fail(bigint) is
    'ack for whoever commits without waiting for its answer: PQ003 where the batch is not open, so that nothing is committed.';

-- Seeking

create or replace function pgque._seek(queue text, consumer text, tick_id bigint, at timestamptz)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s pgque.subscriber := pgque._subscriber(queue, consumer);
    q pgque.queue;
    c pgque.cursor;
begin
    if s.sub_group is not null then
        perform pgque._refuse_cooperative(s, consumer);
    end if;
    q := pgque._hold_history(queue);
    c := pgque._lock_position(s.sub_id);
    if c.cur_sub is null then
        perform pgque._raise_not_subscribed(queue, consumer);
    elsif c.cur_batch is not null or exists (
        select
        from pgque.subscriber m
        where m.sub_group = s.sub_id
            and (pgque._position(m.sub_id)).cur_next_tick is not null
    ) then
        raise exception 'consumer % on queue % holds a batch', consumer, queue
            using errcode = 'PQ012', hint = 'Finish it with pgque.ack(batch_id) before you seek.';
    end if;
    if at is not null then
        select t.tick_id into tick_id
        from pgque.tick t
        where t.tick_queue = q.queue_id
            and t.tick_time <= at
        order by t.tick_id desc
        limit 1;
        if tick_id is null then
            raise exception 'tick not found: none in queue % is as old as %', queue, at
                using errcode = 'PQ011', hint = format('Seek to tick %s, the oldest that is kept.', q.queue_history_tick);
        end if;
    end if;
    c.cur_tick := pgque._need_tick(q, tick_id);
    c.cur_next_tick := null;
    c.cur_place := null;
    perform pgque._move(c);
    return c.cur_tick;
end
$$;
comment on function pgque._seek(text, text, bigint, timestamptz) is 'Moves a consumer to a tick, or to the last tick at a time.';

create or replace function pgque._seek_to(queue text, consumer text, tick_id bigint, at timestamptz)
returns bigint
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque._seek(text, text, bigint, timestamptz)'::pg_catalog.regprocedure, 'execute') then
        return pgque._seek(queue, consumer, tick_id, at);
    end if;
    return (pgque._ask('seek', array[queue, consumer, tick_id::pg_catalog.text, at::pg_catalog.text])).number;
end
$$;
comment on function pgque._seek_to(text, text, bigint, timestamptz) is 'What both seek call, with the rights of their caller.';

create or replace function pgque.seek(queue text, consumer text, tick_id bigint)
returns bigint
language sql
as $$
    select pgque._seek_to(queue, consumer, tick_id, null)
$$;
comment on function pgque.seek(text, text, bigint) is
    'Moves a consumer to a tick within the history that is kept (else PQ011), unless it holds a batch (PQ012): the tick.';

create or replace function pgque.seek(queue text, consumer text, at timestamptz)
returns bigint
language sql
as $$
    select pgque._seek_to(queue, consumer, null, at)
$$;
comment on function pgque.seek(text, text, timestamptz) is
    'Moves a consumer to the last tick at or before a time, so that what was sent afterwards is delivered: the tick.';
