-- Rotation: how the log and the ledger return space, by TRUNCATE.
--
-- Invariant: a child is truncated only under its exclusive lock, and only if a check under that lock finds that every
-- position has seen every row in it. A transaction that inserted and has not committed, or is prepared, holds a lock on
-- the child, so the exclusive lock is not available. The lock is waited for only a moment, because
-- readers queue behind it.

create or replace function pgque._log_has_unseen(q pgque.queue, child text)
returns boolean
language plpgsql
as $$
declare
    unseen boolean;
begin
    -- Checks every position, and the newest tick, where the next subscriber will start. A position in an earlier life
    -- of the log (see restore) has seen nothing of this one.
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
    'Returns true if a child of the log holds a row that some consumer, or one that subscribes now, has not seen.';

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
        return false; -- committed between the check and the lock; no session can add a row now
    elsif pgque._is_being_dumped() then
        return false; -- checked last, because a dump that begins now sees the positions that the check saw
    end if;
    -- History begins with the first tick that saw every row to be truncated.
    execute format(
        'update pgque.queue set queue_history_tick = coalesce((
            select t.tick_id
            from pgque.tick t
            cross join (
                select max(greatest_of.txid::text::numeric)::text::xid8 -- max(xid8) exists from PostgreSQL 15 on
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
    'Empties a child of the log if every consumer has seen it and no session uses it. Returns whether it is empty now.';

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
    'Rotates a log, once per rotation_period: empties the oldest child, if every consumer has seen it, and directs '
    'new events to it. Returns 1, or 0 if it is too early or if the child is needed or in use.';

create or replace function pgque.maint_rotate_tables_step2()
returns int
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select 0
$$;
comment on function pgque.maint_rotate_tables_step2() is
    'Does nothing and returns 0, because rotation needs no second step. Kept for callers of PgQ.';

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
    -- Keeps ticks at which a consumer stands, the ends of each life of a log, and history, which gets sparser with age.
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
    'Copies the rows that are still needed from one child of the ledger to the other and returns how many. The tables '
    'of the first child must be locked against writers.';

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
        return 0; -- another session is doing this
    end if;
    current_child := pgque._ledger_child();
    other := 1 - current_child;
    if pg_relation_size(format('pgque.tick_%s', other)) + pg_relation_size(format('pgque.cursor_%s', other)) > 0 then
        -- Sessions wrote to it until the last switch, and after it if they had read the setting before.
        if not pgque._lock_briefly(format('pgque.tick_%1$s, pgque.cursor_%1$s', other), 'access exclusive') then
            return 0;
        end if;
        -- A later call truncates it, after the commit of the copies, because a dump must find one or the other.
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
    -- An isolated writer may have written to both children since the check above. Its row in the other child would be
    -- older than a row in the current one. The lock keeps the other child empty until it is current.
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
    'Releases the space of old ticks and cursors. Each call does one step: copies the rows that are still needed, '
    'truncates the old child, or switches to the other child if the current one is full. Returns 1, or 0 if it did '
    'nothing.';
