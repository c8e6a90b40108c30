-- Consuming: receive and ack.
--
-- Invariant: ack covers exactly what the batch returned last. A batch that was cut at max_return ends at the cut
-- (cur_upto), and the next one continues there in the same window. Looking for work takes no lock and writes nothing.

create or replace function pgque._has_work(s pgque.subscriber, newest bigint)
returns boolean
language plpgsql
as $$
declare
    c pgque.cursor := pgque._position(s.sub_id);
begin
    return c.cur_sub is null -- the locked path finds out why
        or c.cur_batch is not null
        or c.cur_next_tick is not null
        or c.cur_tick < newest
        or pgque._isolated_from_commits();
end
$$;
comment on function pgque._has_work(pgque.subscriber, bigint) is
    'Returns true if it is worth locking the subscriber. newest is the newest tick. Only reads.';

create or replace function pgque._messages_sql(s pgque.span)
returns text
language sql immutable
as $$
    select 'select * from pgque._event_' || s.queue_id || '_messages($1)'
$$;
comment on function pgque._messages_sql(pgque.span) is
    'Returns the query for the messages of a span. The span is the query''s parameter.';

-- A session may have received the open batch before. If the batch then ended elsewhere, that session's ack would cover
-- events that it has not seen, or fewer than it handled. So if another max_return changes the batch's extent, the batch
-- gets a new id.
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
    newest pgque.tick;
    span pgque.span;
    moved boolean := false;
begin
    perform pgque._check_max_return(max_return);
    s := pgque._subscriber(queue, consumer);
    perform pgque._refuse_cooperative(s, consumer);
    newest := pgque._last_tick(s.sub_queue);
    -- After a restore, new events may have transaction ids between those of old ticks: see restore.
    if not pgque._has_work(s, newest.tick_id) or pgque._is_from_the_future(newest.tick_snapshot) then
        return null;
    end if;
    c := pgque._lock_normal(s, queue, consumer, merged);
    select * into q from pgque.queue t where t.queue_id = s.sub_queue;
    earlier := pgque._get_tick(s.sub_queue, c.cur_tick);
    loop
        if c.cur_next_tick is not null then
            later := pgque._get_tick(s.sub_queue, c.cur_next_tick);
        elsif newest.tick_id = earlier.tick_id + 1 then
            later := newest;
        else
            later := pgque._window_end(s.sub_queue, earlier, case when merged then max_return end, newest.tick_id);
            exit when later.tick_id is null;
        end if;
        span := pgque._span(q, s.sub_id, earlier, later, c.cur_place, null);
        -- The first window is not checked here, because reading it shows whether it holds events.
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
        -- This window holds nothing for this consumer, so finish it and look at the next one.
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
    'Opens the next batch or finds the open one, at most max_return events of one window, and returns its span, or '
    'NULL if nothing is ready. empty_batch is the batch that this transaction has just opened and found empty.';

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
    'Returns the next batch, or the open one again until it is acked: at most max_return messages of one tick window, '
    'by msg_id. An empty result means that nothing is ready. Waits while another transaction handles a batch of this '
    'consumer.';

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
    'Same as receive, for loops: returns several ready windows as one batch of at most max_return messages. Raises '
    '55P03 at once, instead of waiting, while another transaction handles a batch of this consumer.';

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
        return pgque._warn_not_open(batch_id);
    end if;
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    perform pgque._finish_batch(c, s);
    return 1;
end
$$;
comment on function pgque.finish_batch(bigint) is 'Same as ack, under PgQ''s name.';

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
    'Finishes a batch and returns 1, or 0 with a WARNING if the batch is not open. Messages of the batch that were '
    'not nacked are never delivered to this consumer again.';

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
comment on function pgque._ack_or_fail(bigint) is
    'Does the work of ack_or_fail on any batch, for members of pgque_reader.';

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
    'Finishes a batch, the same as ack, but raises PQ003 if the batch is not open. A caller that commits without '
    'waiting for the answer then commits nothing.';
