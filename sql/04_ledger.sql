-- The ledger: ticks and cursors, written to one child at a time, emptied by TRUNCATE.
--
-- Invariant: if the current child holds a row of a key (a queue's ticks, a subscriber's cursor), it holds the newest
-- one and all rows since. Writers hold the lock of the key and then ask which child is current, and a child becomes current
-- only while it is empty and locked against writers. So readers look into the current child first. A row that a
-- transaction has read, or refers to in a row that it writes, stays until that transaction ends, because it holds a
-- lock on the child.
--
-- Functions that read are VOLATILE: each query takes its snapshot after the wait for a TRUNCATE, whose rows went to the
-- other child. With an older snapshot (REPEATABLE READ) they may miss a row and then raise 40001.

create or replace function pgque._ledger_child()
returns bigint
language sql volatile
as $$
    select coalesce(pg_sequence_last_value('pgque.ledger_child'), 0)
$$;
comment on function pgque._ledger_child() is
    'Returns the child of the ledger that is written to, 0 or 1. It is kept in a sequence, because a row would have '
    'to be updated.';

create or replace function pgque._ledger_was_truncated()
returns boolean
language sql volatile
as $$
    -- A plain query sees the catalog as of the transaction's snapshot. pg_relation_filenode sees its current state.
    select exists (
        select
        from pg_class c
        where c.oid in ('pgque.cursor_0'::regclass, 'pgque.cursor_1'::regclass)
            and c.relfilenode <> pg_relation_filenode(c.oid)
    )
$$;
comment on function pgque._ledger_was_truncated() is
    'Returns true if rows that the caller should see have moved to the other child. For transactions that are '
    'isolated from commits.';

-- Cursors
create or replace function pgque._move(inout c pgque.cursor)
language plpgsql
as $$
begin
    c.cur_seq := c.cur_seq + 1;
    c.cur_time := clock_timestamp();
    if pgque._isolated_from_commits() then
        -- The row to collide with may be in either child. If the snapshot cannot see that row, the conflict is an error
        -- (40001) under these isolation levels.
        insert into pgque.cursor_0 select c.* on conflict do nothing;
        insert into pgque.cursor_1 select c.* on conflict do nothing;
    elsif pgque._ledger_child() = 0 then
        insert into pgque.cursor_0 select c.*;
    else
        insert into pgque.cursor_1 select c.*;
    end if;
end
$$;
comment on function pgque._move(pgque.cursor) is 'Writes the next row of a cursor and returns it.';

create or replace function pgque._position(subscriber_id int)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    c pgque.cursor;
begin
    if not pgque._isolated_from_commits() then
        if pgque._ledger_child() = 0 then
            select * into c from pgque.cursor_0 t where t.cur_sub = subscriber_id order by t.cur_seq desc limit 1;
        else
            select * into c from pgque.cursor_1 t where t.cur_sub = subscriber_id order by t.cur_seq desc limit 1;
        end if;
        if found then
            return c;
        end if;
    end if;
    select * into c from pgque.cursor t where t.cur_sub = subscriber_id order by t.cur_seq desc limit 1;
    return c;
end
$$;
comment on function pgque._position(int) is
    'Returns the newest row of a cursor that is committed or written by the caller.';

create or replace function pgque._batch_holder(batch_id bigint)
returns int
language plpgsql volatile
as $$
declare
    holder int;
begin
    if not pgque._isolated_from_commits() then
        if pgque._ledger_child() = 0 then
            select t.cur_sub into holder from pgque.cursor_0 t where t.cur_batch = batch_id limit 1;
        else
            select t.cur_sub into holder from pgque.cursor_1 t where t.cur_batch = batch_id limit 1;
        end if;
        if found then
            return holder;
        end if;
    end if;
    select t.cur_sub into holder from pgque.cursor t where t.cur_batch = batch_id limit 1;
    return holder;
end
$$;
comment on function pgque._batch_holder(bigint) is
    'Returns the subscriber to which a batch was given, or NULL if that is no longer known.';

-- Ticks
create or replace function pgque._insert_tick(t pgque.tick)
returns void
language plpgsql
as $$
begin
    if pgque._ledger_child() = 0 then
        insert into pgque.tick_0 select t.*;
    else
        insert into pgque.tick_1 select t.*;
    end if;
end
$$;
comment on function pgque._insert_tick(pgque.tick) is 'Writes a tick to the current child.';

create or replace function pgque._insert_first_tick(queue_id int)
returns void
language plpgsql
as $$
declare
    t pgque.tick;
begin
    t.tick_queue := queue_id;
    t.tick_id := 1;
    t.tick_time := clock_timestamp();
    t.tick_snapshot := pgque._snapshot();
    t.tick_event_seq := 0;
    t.tick_seq_before := 0;
    t.tick_seq_after := 0;
    t.tick_waiting := '{}'; -- no other session can have sent yet
    t.tick_floor := -1;
    perform pgque._insert_tick(t);
end
$$;
comment on function pgque._insert_first_tick(int) is
    'Writes the first tick of a new queue, where its first subscribers start.';

create or replace function pgque._last_tick(queue_id int)
returns pgque.tick
language plpgsql volatile
as $$
declare
    last pgque.tick;
begin
    if not pgque._isolated_from_commits() then
        if pgque._ledger_child() = 0 then
            select * into last from pgque.tick_0 t where t.tick_queue = queue_id order by t.tick_id desc limit 1;
        else
            select * into last from pgque.tick_1 t where t.tick_queue = queue_id order by t.tick_id desc limit 1;
        end if;
        if found then
            return last;
        end if;
    end if;
    select * into last from pgque.tick t where t.tick_queue = queue_id order by t.tick_id desc limit 1;
    return last;
end
$$;
comment on function pgque._last_tick(int) is 'Returns the newest tick of a queue.';

create or replace function pgque._get_tick(queue_id int, tick_id bigint)
returns pgque.tick
language plpgsql volatile
as $$
declare
    t pgque.tick;
begin
    if tick_id is null then
        return null;
    end if;
    if not pgque._isolated_from_commits() then
        if pgque._ledger_child() = 0 then
            select * into t from pgque.tick_0 k where k.tick_queue = queue_id and k.tick_id = _get_tick.tick_id;
        else
            select * into t from pgque.tick_1 k where k.tick_queue = queue_id and k.tick_id = _get_tick.tick_id;
        end if;
        if found then
            return t;
        end if;
    end if;
    select * into t from pgque.tick k where k.tick_queue = queue_id and k.tick_id = _get_tick.tick_id;
    if not found then
        if pgque._isolated_from_commits() then
            perform pgque._raise_moved_on('the ticks');
        end if;
        raise exception 'tick not found: %, at which this consumer stands', tick_id
            using errcode = 'PQ011', hint = 'Move the consumer with pgque.seek(queue, consumer, tick_id).';
    end if;
    return t;
end
$$;
comment on function pgque._get_tick(int, bigint) is
    'Returns the tick of a consumer''s position by its id, or NULL for NULL. Raises PQ011 if the tick is no longer '
    'kept.';

create or replace function pgque._ticks_after(queue_id int, start bigint, at_most int)
returns setof pgque.tick
language plpgsql volatile
as $$
declare
    child int := pgque._ledger_child();
begin
    -- If the start is in the current child, so are all later ticks.
    if not pgque._isolated_from_commits() then
        if child = 0 then
            perform from pgque.tick_0 t where t.tick_queue = queue_id and t.tick_id = start;
            if found then
                return query
                select * from pgque.tick_0 t where t.tick_queue = queue_id and t.tick_id > start order by t.tick_id limit at_most;
                return;
            end if;
        else
            perform from pgque.tick_1 t where t.tick_queue = queue_id and t.tick_id = start;
            if found then
                return query
                select * from pgque.tick_1 t where t.tick_queue = queue_id and t.tick_id > start order by t.tick_id limit at_most;
                return;
            end if;
        end if;
    end if;
    return query
    select * from pgque.tick t where t.tick_queue = queue_id and t.tick_id > start order by t.tick_id limit at_most;
end
$$;
comment on function pgque._ticks_after(int, bigint, int) is
    'Returns up to at_most ticks of a queue that follow the given one, in order.';

create or replace function pgque._tick_after(queue_id int, start bigint)
returns pgque.tick
language plpgsql volatile
as $$
declare
    t pgque.tick;
begin
    if not pgque._isolated_from_commits() then
        if pgque._ledger_child() = 0 then
            select * into t from pgque.tick_0 k where k.tick_queue = queue_id and k.tick_id > start order by k.tick_id limit 1;
        else
            select * into t from pgque.tick_1 k where k.tick_queue = queue_id and k.tick_id > start order by k.tick_id limit 1;
        end if;
        if t.tick_id = start + 1 then
            return t; -- no tick can lie between the two, whichever child holds the start
        end if;
    end if;
    select * into t from pgque._ticks_after(queue_id, start, 1);
    return t;
end
$$;
comment on function pgque._tick_after(int, bigint) is
    'Returns the tick of a queue that follows the given one, or a row of NULLs if that is the newest.';
