-- Ticks: taking one, and telling the listeners.
--
-- Invariant: the ticks of a queue are taken one at a time, each under the queue's advisory lock, in a READ COMMITTED
-- transaction, and the snapshot is read after the lock. So a later tick sees everything that an earlier one saw. Each
-- transaction that the snapshot puts at its xmax or above got its id after tick_seq_before was read, so its events have
-- greater ids; _snapshot ensures that.

create or replace function pgque._next_tick(
    q pgque.queue, last pgque.tick, seq_before bigint, snap pg_snapshot, may_have_sent boolean
)
returns pgque.tick
language plpgsql
as $$
declare
    t pgque.tick := last;
begin
    t.tick_id := last.tick_id + 1;
    t.tick_seq_before := seq_before;
    t.tick_snapshot := snap;
    t.tick_seq_after := pgque._sequence_value(q.queue_event_seq);
    t.tick_event_seq := t.tick_seq_after;
    -- Read after the ids, and limited to the number of ids taken since the last tick, so that the count of new events
    -- never falls.
    t.tick_put_back := greatest(last.tick_put_back, least(
        coalesce(pg_sequence_last_value(to_regclass(q.queue_data_pfx || '_put_back')), 0),
        coalesce(last.tick_put_back, 0) + t.tick_seq_after - last.tick_seq_after));
    t.tick_time := clock_timestamp();
    if seq_before > last.tick_seq_before and pg_snapshot_xmin(snap) = pg_snapshot_xmax(snap) then
        t.tick_waiting := '{}';
    elsif seq_before > last.tick_seq_before or last.tick_waiting <> '{}' then
        t.tick_waiting := array(
            select txid
            from unnest(
                case
                    when seq_before > last.tick_seq_before then array(select pg_snapshot_xip(snap))
                    else last.tick_waiting
                end
            ) as txid
            where not pg_visible_in_snapshot(txid, snap)
                and (may_have_sent or txid <> pg_current_xact_id())
        );
    end if;
    return t;
end
$$;
comment on function pgque._next_tick(pgque.queue, pgque.tick, bigint, pg_snapshot, boolean) is
    'Returns the tick that follows last. seq_before was read before the snapshot. may_have_sent says that this '
    'transaction had an id before the call: it may have sent events, so a tick is due when it ends.';

create or replace function pgque._store_tick(q pgque.queue, t pgque.tick)
returns bigint
language plpgsql
as $$
begin
    perform pgque._insert_tick(t);
    perform pg_notify('pgque_' || q.queue_name, t.tick_id::text);
    return t.tick_id;
end
$$;
comment on function pgque._store_tick(pgque.queue, pgque.tick) is
    'Writes a tick, notifies the listeners of its queue and returns the tick id.';

create or replace function pgque._take_tick(q pgque.queue, may_have_sent boolean)
returns bigint
language plpgsql
as $$
declare
    last pgque.tick;
    seq bigint;
    snap pg_snapshot;
begin
    -- A separate statement, so that the snapshots below are taken after the lock is held.
    perform pg_advisory_xact_lock(1885827446, q.queue_id);
    q := pgque._queue(q.queue_name); -- drop_queue takes the same lock
    last := pgque._need_last_tick(q);
    if not pgque._is_due(q, last) then
        return null;
    end if;
    last.tick_forced := pgque._times_forced(q);
    seq := pgque._sequence_value(q.queue_event_seq);
    snap := pgque._snapshot();
    return pgque._store_tick(q, pgque._next_tick(q, last, seq, snap, may_have_sent));
end
$$;
comment on function pgque._take_tick(pgque.queue, boolean) is
    'Takes a tick of a queue if one is due and returns its id, or NULL if none was due.';

create or replace function pgque._take_ticks(queues pgque.queue[], may_have_sent boolean)
returns bigint
language plpgsql
as $$
declare
    q pgque.queue;
    due pgque.queue[] := '{}';
    lasts pgque.tick[] := '{}';
    seqs bigint[] := '{}';
    last pgque.tick;
    snap pg_snapshot;
begin
    foreach q in array queues loop
        if not pg_try_advisory_xact_lock(1885827446, q.queue_id) then
            perform pgque._warn_of_held_tick(q); -- warns only if the queue is late
        else
            last := pgque._need_last_tick(q);
            if pgque._is_due(q, last) then
                due := due || q;
                last.tick_forced := pgque._times_forced(q);
                lasts := lasts || last;
                seqs := seqs || pgque._sequence_value(q.queue_event_seq);
            end if;
        end if;
    end loop;
    if due = '{}' then
        return 0;
    end if;
    snap := pgque._snapshot();
    for i in 1 .. cardinality(due) loop
        perform pgque._store_tick(due[i], pgque._next_tick(due[i], lasts[i], seqs[i], snap, may_have_sent));
    end loop;
    return cardinality(due);
end
$$;
comment on function pgque._take_ticks(pgque.queue[], boolean) is
    'Takes a tick of each of these queues that is due and that no other ticker is working on, all with one snapshot. '
    'Returns how many.';

create or replace function pgque.ticker(queue text)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    has_id boolean := pg_current_xact_id_if_assigned() is not null;
    q pgque.queue;
begin
    perform pgque._need_read_committed('ticker');
    q := pgque._queue(queue);
    perform pgque._refuse_ticks(q);
    perform pgque._after_restore();
    return pgque._take_tick(q, has_id);
end
$$;
comment on function pgque.ticker(text) is
    'Takes a tick of one queue if one is due and returns its id, or NULL if none was due. Cannot see events that the '
    'caller has not committed.';

create or replace function pgque.ticker(queue text, tick_id bigint, orig_timestamp timestamptz, event_seq bigint)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    has_id boolean := pg_current_xact_id_if_assigned() is not null;
    q pgque.queue;
    last pgque.tick;
    seq bigint;
    snap pg_snapshot;
    t pgque.tick;
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
    elsif not isfinite(orig_timestamp) then
        raise exception 'orig_timestamp must be finite, not %', orig_timestamp using errcode = '22023';
    end if;
    perform pgque._after_restore();
    perform pg_advisory_xact_lock(1885827446, q.queue_id);
    q := pgque._queue(queue); -- drop_queue takes the same lock
    last := pgque._need_last_tick(q);
    if tick_id <= last.tick_id then
        raise exception 'tick_id must move forward: % is not above %', tick_id, last.tick_id
            using errcode = '22023';
    elsif event_seq <= last.tick_event_seq then
        raise exception 'event_seq must move forward: % is not above %', event_seq, last.tick_event_seq
            using errcode = '22023';
    end if;
    last.tick_forced := pgque._times_forced(q);
    seq := pgque._sequence_value(q.queue_event_seq);
    snap := pgque._snapshot();
    t := pgque._next_tick(q, last, seq, snap, has_id);
    t.tick_id := tick_id;
    t.tick_time := coalesce(orig_timestamp, t.tick_time);
    t.tick_event_seq := event_seq;
    return pgque._store_tick(q, t);
end
$$;
comment on function pgque.ticker(text, bigint, timestamptz, bigint) is
    'Takes a tick with a given id, time and sequence on a queue with an external ticker, and returns its id. Raises '
    '22023 unless id and sequence move forward.';

create or replace function pgque.ticker()
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    has_id boolean := pg_current_xact_id_if_assigned() is not null;
    due pgque.queue[];
    q pgque.queue;
    ticked bigint := 0;
begin
    perform pgque._need_read_committed('ticker');
    perform pgque._after_restore();
    -- Only reads, for all queues at once. _take_ticks decides under the lock which of them are really due.
    begin
        due := array(
            select u
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
                    coalesce(pg_sequence_last_value(to_regclass(u.queue_event_seq)), 0) <> last.tick_seq_before
                    or (last.tick_waiting <> '{}' and pgque._finished(last.tick_waiting, pg_current_snapshot()))
                    or pgque._times_forced(u) <> coalesce(last.tick_forced, 0)
                    or (u.queue_ticker_idle_period > interval '0'
                        and pgque._is_past(last.tick_time, u.queue_ticker_idle_period))
                    or pg_snapshot_xmax(last.tick_snapshot) > pg_snapshot_xmax(pg_current_snapshot())
                    or last.tick_id is null
                    or to_regclass(u.queue_event_seq) is null
                )
            order by u.queue_id
        );
    exception
        when undefined_table or internal_error then
            -- A queue and its sequence are being dropped.
            due := array(select u from pgque.queue u where not u.queue_ticker_paused and not u.queue_external_ticker);
    end;
    begin
        return pgque._take_ticks(due, has_id);
    exception
        when others then
            null; -- one queue failed: tick each one separately, so that the others continue
    end;
    foreach q in array due loop
        begin
            ticked := ticked + pgque._take_ticks(array[q], true);
        exception
            when others then
                raise warning 'pgque: no tick for queue %: % (%)', q.queue_name, sqlerrm, sqlstate;
        end;
    end loop;
    return ticked;
end
$$;
comment on function pgque.ticker() is
    'Ticks every queue that is due and returns how many. An error in one queue becomes a WARNING and does not stop '
    'the others.';
