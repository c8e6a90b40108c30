-- Rotation: how space comes back, by TRUNCATE.
--
-- Invariant: a table is truncated only under its exclusive lock and only when, looked at under that
-- lock, every row in it was seen by every position (the log) or was copied on (the ledger). Whoever
-- inserted and has not committed, or prepared, holds a lock on the table, so it is not had then. The
-- lock is waited for no longer than a moment, since readers queue up behind the wait.

-- The log

create or replace function pgque._log_has_unseen(q pgque.queue, child text)
returns boolean
language plpgsql
as $$
declare
    unseen boolean;
begin
    -- Every position, and the newest tick, at which the next subscriber will stand.
    execute format(
        'select coalesce(bool_or(
            t.tick_id is null
            or exists (
                select
                from %1$s e
                where e.ev_txid >= pg_snapshot_xmax(t.tick_snapshot)
                    and (e.ev_owner is not null or e.ev_id > t.tick_floor)
            )
            or exists (
                select
                from pg_snapshot_xip(t.tick_snapshot) as txid
                join %1$s e on e.ev_txid = txid
                where e.ev_owner is not null or e.ev_id > t.tick_floor
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
        using q.queue_id;
    return unseen;
end
$$;
comment on function pgque._log_has_unseen(pgque.queue, text) is
    'Whether a child of the log holds a row that some consumer, or one that subscribes now, has not seen.';

create or replace function pgque._lock_exclusively(tables text)
returns boolean
language plpgsql
set lock_timeout = '20ms'
as $$
begin
    execute format('lock table %s in access exclusive mode', tables);
    return true;
exception
    when lock_not_available or deadlock_detected then
        return false;
end
$$;
comment on function pgque._lock_exclusively(text) is
    'Locks tables against everybody, if that takes no longer than a moment: whoever comes meanwhile waits as long.';

create or replace function pgque._truncate_child(q pgque.queue, child text)
returns boolean
language plpgsql
as $$
begin
    if pg_relation_size(child::regclass) = 0 then
        return true;
    elsif pgque._log_has_unseen(q, child) or not pgque._lock_exclusively(child) then
        return false;
    elsif pgque._log_has_unseen(q, child) then
        return false; -- committed between the look and the lock; nobody can add a row now
    end if;
    -- History begins with the first tick that saw all of what goes.
    execute format(
        'update pgque.queue set queue_history_tick = coalesce((
            select t.tick_id
            from pgque.tick t, (select max(ev_txid) as txid from %1$s) newest
            where t.tick_queue = $1
                and t.tick_id >= $2
                and (newest.txid is null or pg_snapshot_xmax(t.tick_snapshot) > newest.txid)
                and not exists (
                    select
                    from pg_snapshot_xip(t.tick_snapshot) as txid
                    join %1$s e on e.ev_txid = txid
                )
            order by t.tick_id
            limit 1
        ), $3) where queue_id = $1', child)
        using q.queue_id, q.queue_history_tick, (pgque._last_tick(q.queue_id)).tick_id;
    execute format('truncate table %s', child);
    return true;
end
$$;
comment on function pgque._truncate_child(pgque.queue, text) is
    'Empties a child of the log if everybody has seen it and nobody is at it: whether it is empty now.';

create or replace function pgque.maint_rotate_tables_step1(queue text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    q pgque.queue;
    next_table int;
begin
    perform pgque._need_read_committed('maint_rotate_tables_step1');
    q := pgque._queue(queue);
    select * into q from pgque.queue t where t.queue_id = q.queue_id for no key update skip locked;
    if not found or clock_timestamp() - q.queue_switch_time < q.queue_rotation_period then
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

-- The ledger: ticks and cursors

create or replace function pgque._copy_ledger(from_child int, to_child int)
returns void
language plpgsql
as $$
begin
    execute format(
        'insert into pgque.cursor_%s
        select c.*
        from pgque.subscriber s
        cross join lateral pgque._position(s.sub_id) newest
        join pgque.cursor_%s c on c.cur_sub = newest.cur_sub and c.cur_seq = newest.cur_seq
        on conflict do nothing', to_child, from_child);
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
            select t.tick_queue, unnest(array[min(t.tick_id), max(t.tick_id)])
            from pgque.tick t
            group by t.tick_queue, t.tick_floor
            union
            select t.tick_queue, max(t.tick_id)
            from pgque.tick t
            join pgque.queue q on q.queue_id = t.tick_queue and t.tick_id >= q.queue_history_tick
            cross join lateral (
                select case
                    when t.tick_time > clock_timestamp() - interval ''10 minutes'' then 1
                    when t.tick_time > clock_timestamp() - interval ''1 day'' then 60
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
end
$$;
comment on function pgque._copy_ledger(int, int) is
    'Copies what is still needed from one child of the ledger to the other. Needs both locked against writers of the first.';

create or replace function pgque.maint_rotate_ledger()
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    settings pgque.config;
    other int;
    written bigint;
begin
    perform pgque._need_read_committed('maint_rotate_ledger');
    select * into settings from pgque.config for no key update skip locked;
    if not found then
        return 0;
    end if;
    other := 1 - settings.ledger_child;
    if pg_relation_size(format('pgque.tick_%s', other)) + pg_relation_size(format('pgque.cursor_%s', other)) > 0 then
        -- Written to until the last switch, and by those who had read the setting before it.
        if not pgque._lock_exclusively(format('pgque.tick_%1$s, pgque.cursor_%1$s', other)) then
            return 0;
        end if;
        perform pgque._copy_ledger(other, settings.ledger_child);
        execute format('truncate table pgque.tick_%1$s, pgque.cursor_%1$s', other);
        update pgque.config
        set ledger_kept_bytes = pg_relation_size(format('pgque.tick_%s', settings.ledger_child))
            + pg_relation_size(format('pgque.cursor_%s', settings.ledger_child));
        return 1;
    end if;
    written := pg_relation_size(format('pgque.tick_%s', settings.ledger_child))
        + pg_relation_size(format('pgque.cursor_%s', settings.ledger_child));
    if written < settings.ledger_max_bytes + 2 * settings.ledger_kept_bytes then
        return 0;
    end if;
    update pgque.config set ledger_child = other;
    return 1;
end
$$;
comment on function pgque.maint_rotate_ledger() is
    'Gives back the space of old ticks and cursors by TRUNCATE, or begins a new child where the current one is full: 1, or 0.';
