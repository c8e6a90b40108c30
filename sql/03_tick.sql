-- Ticks: when one is due, taking it, telling the listeners.
--
-- Invariant: the ticks of a queue are taken one at a time, each under the queue's advisory lock, in
-- a READ COMMITTED transaction, and its snapshot is read after the lock: so a later tick sees all
-- that an earlier one saw. A tick is due when it may see something new:
--   * an id was taken since the last tick read the sequence, or
--   * a transaction has finished that may hold an id counted before (tick_waiting).
-- The second finds the late commit: its id was counted by a tick that could not see its event.
-- An idle queue has neither, so nothing is written.

create or replace function pgque._sequence_value(sequence_name text)
returns bigint
language plpgsql
as $$
declare
    value bigint;
begin
    execute 'select case when is_called then last_value else 0 end from ' || sequence_name into value;
    return value;
end
$$;
comment on function pgque._sequence_value(text) is 'The last value handed out, 0 where none was; not transactional.';

create or replace function pgque._snapshot()
returns pg_snapshot
language plpgsql
as $$
declare
    snap pg_snapshot := pg_current_snapshot();
    own xid8 := pg_current_xact_id_if_assigned();
begin
    -- PostgreSQL leaves the own transaction out of the list of those in progress. What it sends after
    -- the tick would lie outside of every batch, so it counts as in progress like any other.
    if own is null or not pg_visible_in_snapshot(own, snap) then
        return snap;
    end if;
    return (
        select format('%s:%s:%s', min(x), pg_snapshot_xmax(snap), string_agg(x::text, ',' order by x))
        from (select pg_snapshot_xip(snap) union all select own) running (x)
    )::pg_snapshot;
end
$$;
comment on function pgque._snapshot() is 'What is committed now; the caller''s own transaction is not.';

create or replace function pgque._last_tick(queue_id int)
returns pgque.tick
language plpgsql stable
as $$
declare
    last pgque.tick;
begin
    select * into last
    from pgque.tick t
    where t.tick_queue = queue_id
    order by t.tick_id desc
    limit 1;
    return last;
end
$$;
comment on function pgque._last_tick(int) is 'The newest tick of a queue.';

create or replace function pgque._insert_tick(t pgque.tick)
returns void
language plpgsql
as $$
begin
    if (select ledger_child from pgque.config) = 0 then
        insert into pgque.tick_0 select t.*;
    else
        insert into pgque.tick_1 select t.*;
    end if;
end
$$;
comment on function pgque._insert_tick(pgque.tick) is 'Writes a tick to the current child of the ledger.';

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

create or replace function pgque._finished(txids xid8[], snap pg_snapshot)
returns boolean
language sql immutable
as $$
    select exists (
        select
        from unnest(txids) as txid
        where pg_visible_in_snapshot(txid, snap)
    )
$$;
comment on function pgque._finished(xid8[], pg_snapshot) is 'Whether the snapshot sees the end of any of these transactions.';

create or replace function pgque._take_tick(
    q pgque.queue, wait boolean default true, external_tick bigint default null,
    external_time timestamptz default null, external_seq bigint default null
)
returns bigint
language plpgsql
as $$
declare
    last pgque.tick;
    t pgque.tick;
    moved boolean;
begin
    -- A statement of its own: the snapshots below are taken after the lock is held.
    if wait then
        perform pg_advisory_xact_lock(1885827446, q.queue_id);
    elsif not pg_try_advisory_xact_lock(1885827446, q.queue_id) then
        return null; -- another ticker is at this queue
    end if;

    last := pgque._last_tick(q.queue_id);
    if last.tick_id is null then
        raise exception 'queue % has lost its ticks', q.queue_name
            using errcode = 'PQ011', hint = 'Its row in pgque.tick was removed by hand; drop and create the queue again.';
    end if;
    if pg_snapshot_xmax(last.tick_snapshot) > pg_snapshot_xmax(pg_current_snapshot()) then
        last := pgque._rebase_ticks(q, last);
    end if;

    t := last;
    t.tick_seq_before := pgque._sequence_value(q.queue_event_seq);
    t.tick_snapshot := pgque._snapshot();
    t.tick_seq_after := pgque._sequence_value(q.queue_event_seq);
    t.tick_time := clock_timestamp();
    moved := t.tick_seq_before > last.tick_seq_before;
    if moved then
        t.tick_waiting := array(select pg_snapshot_xip(t.tick_snapshot));
    else
        t.tick_waiting := array(
            select txid
            from unnest(last.tick_waiting) as txid
            where not pg_visible_in_snapshot(txid, t.tick_snapshot)
        );
    end if;

    if external_tick is not null then
        if external_tick <= last.tick_id then
            raise exception 'tick_id must move forward: % is not above %', external_tick, last.tick_id
                using errcode = '22023';
        elsif external_seq <= last.tick_event_seq then
            raise exception 'event_seq must move forward: % is not above %', external_seq, last.tick_event_seq
                using errcode = '22023';
        end if;
        t.tick_id := external_tick;
        t.tick_time := coalesce(external_time, t.tick_time);
        t.tick_event_seq := external_seq;
    else
        if not q.queue_force_tick then
            if moved then
                if t.tick_seq_after - last.tick_seq_after < q.queue_ticker_max_count
                    and t.tick_time - last.tick_time < q.queue_ticker_max_lag
                then
                    return null;
                end if;
            elsif cardinality(t.tick_waiting) = cardinality(last.tick_waiting)
                and (q.queue_ticker_idle_period <= interval '0'
                    or t.tick_time - last.tick_time < q.queue_ticker_idle_period)
            then
                return null;
            end if;
        end if;
        t.tick_id := last.tick_id + 1;
        t.tick_event_seq := t.tick_seq_after;
    end if;

    perform pgque._insert_tick(t);
    if q.queue_force_tick then
        update pgque.queue set queue_force_tick = false where queue_id = q.queue_id;
    end if;
    perform pg_notify('pgque_' || q.queue_name, t.tick_id::text);
    return t.tick_id;
end
$$;
comment on function pgque._take_tick(pgque.queue, boolean, bigint, timestamptz, bigint) is
    'Takes a tick of the queue if one is due and tells its listeners: the tick id; NULL where none was due.';

-- After a restore into a cluster whose transaction ids are younger, stored snapshots lie in the
-- future. Two ticks close the old life of the log and open the new one: the first sees every old
-- event, the second none of either life, and its floor keeps old transaction ids from being mistaken
-- for new ones. The window between ticks of different floors is empty by definition (04_batch.sql).
create or replace function pgque._rebase_ticks(q pgque.queue, last pgque.tick)
returns pgque.tick
language plpgsql
as $$
declare
    last_xmax xid8 := pg_snapshot_xmax(last.tick_snapshot);
    greatest_txid xid8;
    boundary bigint;
    t pgque.tick := last;
begin
    raise warning 'pgque: queue % was restored from a cluster with greater transaction ids; its ticks are rebased',
        q.queue_name;
    execute format(
        'select max(ev_txid), max(ev_id) from %s where ev_txid >= $1 or ev_txid = any ($2)', q.queue_data_pfx)
        into greatest_txid, boundary
        using last_xmax, array(
            -- Smaller ids may be in use again: such a row counts as new.
            select txid
            from pg_snapshot_xip(last.tick_snapshot) as txid
            where txid >= pg_snapshot_xmax(pg_current_snapshot())
        );
    perform pgque._retry_unseen_redeliveries(q);
    boundary := greatest(boundary, last.tick_seq_after);
    greatest_txid := greatest(greatest_txid, last_xmax);

    t.tick_id := last.tick_id + 1;
    t.tick_snapshot := format('%1$s:%1$s:', greatest_txid::text::numeric + 1);
    t.tick_seq_before := boundary;
    t.tick_seq_after := boundary;
    t.tick_event_seq := greatest(boundary, last.tick_event_seq);
    t.tick_waiting := '{}';
    perform pgque._insert_tick(t);

    perform nextval(q.queue_event_seq::regclass); -- the next boundary will lie above this one
    t.tick_id := last.tick_id + 2;
    t.tick_snapshot := '3:3:';
    t.tick_floor := boundary;
    perform pgque._insert_tick(t);
    return t;
end
$$;
comment on function pgque._rebase_ticks(pgque.queue, pgque.tick) is
    'Closes the log''s life in another cluster and returns the first tick of its life in this one.';

create or replace function pgque._refuse_ticks(q pgque.queue)
returns void
language plpgsql
as $$
begin
    if q.queue_ticker_paused then
        raise exception 'Ticker has been paused for this queue'
            using errcode = 'PQ010',
                detail = format('queue: %s', q.queue_name),
                hint = 'Resume it with pgque.set_queue_config(queue, ''ticker_paused'', ''false'').';
    elsif q.queue_external_ticker then
        raise exception 'This queue has external tick source'
            using errcode = 'PQ010',
                detail = format('queue: %s', q.queue_name),
                hint = 'Its ticks come through pgque.ticker(queue, tick_id, orig_timestamp, event_seq).';
    end if;
end
$$;
comment on function pgque._refuse_ticks(pgque.queue) is 'PQ010 where the queue is paused or ticked from outside.';

create or replace function pgque.ticker(queue text)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue;
begin
    perform pgque._need_read_committed('ticker');
    q := pgque._queue(queue);
    perform pgque._refuse_ticks(q);
    return pgque._take_tick(q);
end
$$;
comment on function pgque.ticker(text) is
    'Takes a tick of one queue if one is due: its id, else NULL. Cannot see what the caller has not committed.';

create or replace function pgque.ticker(queue text, tick_id bigint, orig_timestamp timestamptz, event_seq bigint)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue;
begin
    perform pgque._need_read_committed('ticker');
    q := pgque._queue(queue);
    if not q.queue_external_ticker then
        raise exception 'queue % has no external tick source', queue
            using errcode = 'PQ010',
                hint = 'Declare it with pgque.set_queue_config(queue, ''external_ticker'', ''true'').';
    elsif q.queue_ticker_paused then
        perform pgque._refuse_ticks(q);
    elsif tick_id is null or event_seq is null then
        raise exception 'tick_id and event_seq must not be null' using errcode = '22023';
    end if;
    return pgque._take_tick(q, true, tick_id, orig_timestamp, event_seq);
end
$$;
comment on function pgque.ticker(text, bigint, timestamptz, bigint) is
    'Takes a tick with a given id, time and sequence on a queue with an external ticker. Both must move forward.';

create or replace function pgque.ticker()
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue;
    ticked bigint := 0;
begin
    perform pgque._need_read_committed('ticker');
    -- Reads only, for all queues at once; what may be due is decided under the lock in _take_tick.
    for q in
        select (u).*
        from pgque.queue u
        left join lateral (
            select *
            from pgque.tick t
            where t.tick_queue = u.queue_id
            order by t.tick_id desc
            limit 1
        ) last on true
        where not u.queue_ticker_paused
            and not u.queue_external_ticker
            and (
                coalesce(pg_sequence_last_value(to_regclass(u.queue_event_seq)), 0) > last.tick_seq_before
                or (last.tick_waiting <> '{}' and pgque._finished(last.tick_waiting, pg_current_snapshot()))
                or u.queue_force_tick
                or (u.queue_ticker_idle_period > interval '0'
                    and clock_timestamp() - last.tick_time >= u.queue_ticker_idle_period)
                or pg_snapshot_xmax(last.tick_snapshot) > pg_snapshot_xmax(pg_current_snapshot())
                or last.tick_id is null
                or to_regclass(u.queue_event_seq) is null
            )
        order by u.queue_id
    loop
        begin
            if pgque._take_tick(q, false) is not null then
                ticked := ticked + 1;
            end if;
        exception
            when others then
                raise warning 'pgque: no tick for queue %: % (%)', q.queue_name, sqlerrm, sqlstate;
        end;
    end loop;
    return ticked;
end
$$;
comment on function pgque.ticker() is
    'Ticks every queue that is due: how many. A fault in one queue is a WARNING and does not stop the others.';

create or replace function pgque.force_next_tick(queue text)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
begin
    perform pgque._refuse_ticks(q);
    update pgque.queue set queue_force_tick = true where queue_id = q.queue_id and not queue_force_tick;
    return (pgque._last_tick(q.queue_id)).tick_id;
end
$$;
comment on function pgque.force_next_tick(text) is
    'Makes the next ticker call tick whatever is new: the newest tick so far. Takes no tick itself.';

create or replace function pgque.force_tick(queue text)
returns bigint
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select pgque.force_next_tick(queue)
$$;
comment on function pgque.force_tick(text) is 'The older name of force_next_tick.';
