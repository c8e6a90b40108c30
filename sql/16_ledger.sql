-- The ledger: ticks and cursors, written to one child at a time, given back by TRUNCATE.
--
-- Invariant: where the current child holds a row of a key (a queue's tick, a subscriber's cursor), it
-- holds the newest and all between, for whoever writes holds the key's lock and asks afterwards which
-- child is current. A child becomes current only while it is empty and locked against writers. So readers
-- look there first, and a long transaction that began after a switch keeps no lock on the other child.
-- What a transaction has read, or refers to in a row that it writes, stays until it ends, since it holds a
-- lock on that child.
--
-- Functions that read are VOLATILE: their snapshot is taken after the wait for a TRUNCATE, whose rows
-- went to the other child. An older one (REPEATABLE READ) may find a row gone: that is a 40001.

create or replace function pgque._isolated_from_commits()
returns boolean
language sql volatile
as $$
    select current_setting('transaction_isolation') <> 'read committed'
$$;
comment on function pgque._isolated_from_commits() is
    'True where the caller''s statements all share one snapshot, so that they miss what commits meanwhile.';

create or replace function pgque._raise_moved_on(what text)
returns void
language plpgsql
as $$
begin
    raise exception 'could not serialize access: % moved on after this transaction''s snapshot', what
        using errcode = 'serialization_failure', hint = 'Retry the transaction.';
end
$$;
comment on function pgque._raise_moved_on(text) is 'Raises 40001.';

create or replace function pgque._ledger_child()
returns bigint
language sql volatile
as $$
    select coalesce(pg_sequence_last_value('pgque.ledger_child'), 0)
$$;
comment on function pgque._ledger_child() is
    'The child of the ledger that is written to: 0 or 1. A sequence, since a row would have to be updated.';

create or replace function pgque._ledger_was_truncated()
returns boolean
language sql volatile
as $$
    -- A plain query sees the catalog as of the transaction's snapshot, the function as it is.
    select exists (
        select
        from pg_class c
        where c.oid in ('pgque.cursor_0'::regclass, 'pgque.cursor_1'::regclass)
            and c.relfilenode <> pg_relation_filenode(c.oid)
    )
$$;
comment on function pgque._ledger_was_truncated() is
    'For a transaction that is isolated from commits: whether rows that it should see went to the other child.';

-- Cursors

create or replace function pgque._move(inout c pgque.cursor)
language plpgsql
as $$
begin
    c.cur_seq := c.cur_seq + 1;
    c.cur_time := clock_timestamp();
    if pgque._isolated_from_commits() then
        -- The row to collide with may be in either child. A conflict with a row that the snapshot
        -- cannot see is an error of its own (40001) under these isolation levels.
        insert into pgque.cursor_0 select c.* on conflict do nothing;
        insert into pgque.cursor_1 select c.* on conflict do nothing;
    elsif pgque._ledger_child() = 0 then
        insert into pgque.cursor_0 select c.*;
    else
        insert into pgque.cursor_1 select c.*;
    end if;
end
$$;
comment on function pgque._move(pgque.cursor) is 'Writes the next row of a cursor: the row as written.';

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
comment on function pgque._position(int) is 'The newest row of a cursor that is committed, or the caller''s own.';

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
comment on function pgque._batch_holder(bigint) is 'The subscriber to whom a batch was given, if that is still known.';

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
    t.tick_waiting := '{}'; -- nobody else can have sent yet
    t.tick_floor := -1;
    perform pgque._insert_tick(t);
end
$$;
comment on function pgque._insert_first_tick(int) is 'The tick of a new queue, at which its first subscribers stand.';

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
comment on function pgque._last_tick(int) is 'The newest tick of a queue.';

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
    'A tick at which somebody stands, by its id; NULL for NULL; PQ011 where it is not kept.';

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
            return t; -- there cannot be another between the two, whichever child the start is in
        end if;
    end if;
    select * into t from pgque._ticks_after(queue_id, start, 1);
    return t;
end
$$;
comment on function pgque._tick_after(int, bigint) is 'The tick of a queue that follows one of them; a row of NULLs where it is the newest.';

create or replace function pgque._ticks_after(queue_id int, start bigint, at_most int)
returns setof pgque.tick
language plpgsql volatile
as $$
declare
    child int := pgque._ledger_child();
begin
    -- The start being in the current child, all that follows is.
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
comment on function pgque._ticks_after(int, bigint, int) is 'The ticks of a queue that follow one of them, in order.';

-- Rotation

do $$
begin
    if exists (
        select from pg_catalog.pg_proc p
        where p.oid = to_regprocedure('pgque._copy_ledger(int, int)') and p.prorettype = 'void'::regtype
    ) then
        drop function pgque._copy_ledger(int, int); -- of an earlier day: it returned nothing
    end if;
end
$$;

create or replace function pgque._copy_ledger(from_child int, to_child int)
returns bigint
language plpgsql
as $$
declare
    copied bigint;
    cursors bigint;
begin
    execute format(
        'insert into pgque.cursor_%s
        select c.*
        from pgque.subscriber s
        cross join lateral pgque._position(s.sub_id) newest
        join pgque.cursor_%s c on c.cur_sub = newest.cur_sub and c.cur_seq = newest.cur_seq
        on conflict do nothing', to_child, from_child);
    get diagnostics cursors = row_count;
    -- Ticks where somebody stands, the ends of each life of a log, and history, the thinner the older.
    execute format(
        'with stands as (
            select s.sub_queue, newest.cur_tick, newest.cur_next_tick
            from pgque.subscriber s
            cross join lateral pgque._position(s.sub_id) newest
        ),
        kept as (
            select sub_queue as queue_id, cur_tick as tick_id from stands
            union
            select sub_queue, cur_next_tick from stands
            union
            select queue_id, queue_history_tick from pgque.queue
            union
            select t.tick_queue, unnest(array[min(t.tick_id), max(t.tick_id)])
            from pgque.tick t
            group by t.tick_queue, t.tick_floor
            union
            select t.tick_queue, max(t.tick_id)
            from pgque.tick t
            join pgque.queue q on q.queue_id = t.tick_queue and t.tick_id >= q.queue_history_tick
            cross join lateral (
                select case
                    when not pgque._is_far(t.tick_time, ''10 minutes'') then 1
                    when not pgque._is_far(t.tick_time, ''1 day'') then 60
                    else 3600
                end as seconds
            ) bucket
            group by t.tick_queue, bucket.seconds, floor(extract(epoch from t.tick_time) / bucket.seconds)
        )
        insert into pgque.tick_%s
        select t.*
        from pgque.tick_%s t
        join kept k on k.queue_id = t.tick_queue and k.tick_id = t.tick_id
        join pgque.queue q on q.queue_id = t.tick_queue
        on conflict do nothing', to_child, from_child);
    get diagnostics copied = row_count;
    return cursors + copied;
end
$$;
comment on function pgque._copy_ledger(int, int) is
    'Copies what is still needed from one child of the ledger to the other: how many rows. Needs both locked against writers of the first.';

create or replace function pgque.maint_rotate_ledger()
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    current_child bigint;
    other bigint;
    written bigint;
begin
    perform pgque._need_read_committed('maint_rotate_ledger');
    perform pgque._after_restore();
    if not pg_try_advisory_xact_lock(1885827448, 0) then
        return 0; -- somebody else is at it
    end if;
    current_child := pgque._ledger_child();
    other := 1 - current_child;
    if pg_relation_size(format('pgque.tick_%s', other)) + pg_relation_size(format('pgque.cursor_%s', other)) > 0 then
        -- Written to until the last switch, and by those who had read the setting before it.
        if not pgque._lock_briefly(format('pgque.tick_%1$s, pgque.cursor_%1$s', other), 'access exclusive') then
            return 0;
        end if;
        -- Truncated by a later call, when the copies are committed: a dump must find one or the other.
        if pgque._copy_ledger(other::int, current_child::int) > 0 then
            return 1;
        elsif pgque._is_being_dumped() then
            return 0;
        end if;
        execute format('truncate table pgque.tick_%1$s, pgque.cursor_%1$s', other);
        perform setval('pgque.ledger_kept_bytes', pg_relation_size(format('pgque.tick_%s', current_child))
            + pg_relation_size(format('pgque.cursor_%s', current_child)));
        return 1;
    end if;
    written := pg_relation_size(format('pgque.tick_%s', current_child))
        + pg_relation_size(format('pgque.cursor_%s', current_child));
    if written < (select g.ledger_max_bytes from pgque.config g where g.singleton)
        + 2 * coalesce(pg_sequence_last_value('pgque.ledger_kept_bytes'), 0)
    then
        return 0;
    end if;
    -- An isolated writer may have written to both children since the look above. It would leave a row in the
    -- other one that the current one has outrun. The lock keeps the child empty until it is current.
    if not pgque._lock_briefly(format('pgque.tick_%1$s, pgque.cursor_%1$s', other), 'share') then
        return 0;
    elsif pg_relation_size(format('pgque.tick_%s', other)) + pg_relation_size(format('pgque.cursor_%s', other)) > 0 then
        return 0;
    end if;
    perform setval('pgque.ledger_child', other);
    return 1;
end
$$;
comment on function pgque.maint_rotate_ledger() is
    'Gives back the space of old ticks and cursors by TRUNCATE, or copies what is still needed of them, or begins a new child where the current one is full: 1, or 0.';
