-- Rotation of the log: how space comes back, by TRUNCATE.
--
-- Invariant: a child is truncated only under its exclusive lock and only when, looked at under that
-- lock, every row in it was seen by every position. Whoever inserted and has not committed, or has
-- prepared, holds a lock on the child, so it is not had then. The lock is waited for no longer than a
-- moment, since readers queue up behind the wait.

create or replace function pgque._log_has_unseen(q pgque.queue, child text)
returns boolean
language plpgsql
as $$
declare
    unseen boolean;
begin
    -- Every position, and the newest tick, at which the next subscriber will stand. Whoever stands in
    -- an earlier life of the log (15_restore.sql) has seen nothing of this one.
    execute format(
        'select coalesce(bool_or(
            t.tick_floor is distinct from $2
            or exists (
                select
                from %1$s e
                where e.ev_owner is null
                    and e.ev_txid >= pg_snapshot_xmax(t.tick_snapshot)
                    and e.ev_id > t.tick_floor
            )
            or exists (
                select
                from pgque.subscriber s
                cross join lateral (
                    select
                    from %1$s e
                    where e.ev_owner = s.sub_id
                        and e.ev_txid >= pg_snapshot_xmax(t.tick_snapshot)
                    limit 1
                ) put_back
                where s.sub_queue = $1
            )
            or exists (
                select
                from pg_snapshot_xip(t.tick_snapshot) as txid
                cross join lateral (
                    select
                    from %1$s e
                    where e.ev_owner is null
                        and e.ev_txid = txid
                        and e.ev_id > t.tick_floor
                    limit 1
                ) late
            )
            or exists (
                select
                from pg_snapshot_xip(t.tick_snapshot) as txid
                join pgque.subscriber s on s.sub_queue = $1
                cross join lateral (
                    select
                    from %1$s e
                    where e.ev_owner = s.sub_id
                        and e.ev_txid = txid
                    limit 1
                ) put_back_late
            )
        ), true)
        from (
            select distinct (pgque._position(s.sub_id)).cur_tick as tick_id
            from pgque.subscriber s
            where s.sub_queue = $1
            union
            select (pgque._last_tick($1)).tick_id
        ) position
        left join pgque.tick t on t.tick_queue = $1 and t.tick_id = position.tick_id
        where position.tick_id is not null', child)
        into unseen
        using q.queue_id, q.queue_floor;
    return unseen;
end
$$;
comment on function pgque._log_has_unseen(pgque.queue, text) is
    'Whether a child of the log holds a row that some consumer, or one that subscribes now, has not seen.';

drop function if exists pgque._lock_exclusively(text);
create or replace function pgque._lock_briefly(tables text, mode text)
returns boolean
language plpgsql
set lock_timeout = '20ms'
as $$
begin
    execute format('lock table %s in %s mode', tables, mode);
    return true;
exception
    when lock_not_available or deadlock_detected then
        return false;
end
$$;
comment on function pgque._lock_briefly(text, text) is
    'Locks tables if that takes no longer than a moment, because every other session waits as long: whether it did.';

create or replace function pgque._truncate_child(q pgque.queue, child text)
returns boolean
language plpgsql
as $$
begin
    if pg_relation_size(child::regclass) = 0 then
        return true;
    elsif pgque._log_has_unseen(q, child) or not pgque._lock_briefly(child, 'access exclusive') then
        return false;
    elsif pgque._log_has_unseen(q, child) then
        return false; -- committed between the look and the lock; nobody can add a row now
    elsif pgque._is_being_dumped() then
        return false; -- the look comes first: a dump that begins now sees the positions that it saw
    end if;
    -- History begins with the first tick that saw all of what goes.
    execute format(
        'update pgque.queue set queue_history_tick = coalesce((
            select t.tick_id
            from pgque.tick t
            cross join (
                select max(greatest_of.txid::text::numeric)::text::xid8 -- there is no max(xid8) before PostgreSQL 15
                from (
                    (select ev_txid from %1$s where ev_owner is null order by ev_txid desc limit 1)
                    union all
                    select e.ev_txid from %1$s e join pgque.subscriber s on s.sub_id = e.ev_owner
                ) greatest_of (txid)
            ) newest (txid)
            where t.tick_queue = $1
                and t.tick_id >= $2
                and t.tick_floor = $4
                and (newest.txid is null or pg_snapshot_xmax(t.tick_snapshot) > newest.txid)
                and not exists (
                    select
                    from pg_snapshot_xip(t.tick_snapshot) as txid
                    cross join lateral (
                        select from %1$s e where e.ev_owner is null and e.ev_txid = txid limit 1
                    ) late
                )
            order by t.tick_id
            limit 1
        ), $3) where queue_id = $1', child)
        using q.queue_id, q.queue_history_tick, (pgque._last_tick(q.queue_id)).tick_id, q.queue_floor;
    execute format('truncate table %s', child);
    perform setval(pgque._history_sequence(q.queue_id),
        (select t.queue_history_tick from pgque.queue t where t.queue_id = q.queue_id));
    return true;
end
$$;
comment on function pgque._truncate_child(pgque.queue, text) is
    'Empties a child of the log if everybody has seen it and nobody is at it: whether it is empty now.';

create or replace function pgque.maint_rotate_tables_step1(queue text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue;
    next_table int;
begin
    perform pgque._need_read_committed('maint_rotate_tables_step1');
    q := pgque._queue(queue);
    perform pgque._after_restore();
    select * into q from pgque.queue t where t.queue_id = q.queue_id for no key update skip locked;
    if not found or not pgque._is_past(q.queue_switch_time, q.queue_rotation_period) then
        return 0;
    end if;
    if (select sum(pg_relation_size(c.inhrelid)) from pg_inherits c where c.inhparent = q.queue_data_pfx::regclass) = 0 then
        return 0; -- an idle queue writes nothing
    end if;
    next_table := (q.queue_cur_table + 1) % q.queue_ntables;
    if not pgque._truncate_child(q, q.queue_data_pfx || '_' || next_table) then
        return 0;
    end if;
    update pgque.queue
    set queue_cur_table = next_table,
        queue_switch_time = clock_timestamp()
    where queue_id = q.queue_id;
    return 1;
end
$$;
comment on function pgque.maint_rotate_tables_step1(text) is
    'Once per rotation_period: empties the oldest child of the log, if everybody has seen it, and writes to it from now on: '
    '1; 0 where it is too early, still needed or in use.';

create or replace function pgque.maint_rotate_tables_step2()
returns int
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select 0
$$;
comment on function pgque.maint_rotate_tables_step2() is
    'Does nothing and returns 0: rotation needs no second step. Kept for callers of PgQ.';
