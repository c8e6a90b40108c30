-- When a tick is due, and who holds the locks that a tick needs.
--
-- A tick is due if it may see something new:
--   * an id was taken since the last tick read the sequence, or
--   * a transaction has finished that may hold an id counted before (tick_waiting).
-- The second rule finds the late commit: a tick counted its id but could not see its event. An idle queue meets neither, so
-- nothing is written.
--
-- force_next_tick increments a sequence of the queue, and a tick keeps the count that it read before its snapshot. A
-- sequence needs no update of a row, and it is not transactional: the call takes effect at once, even if the caller
-- rolls back.
--
-- Any session that may connect can take any advisory lock, so another application may hold one of pgque's.
-- Nothing is lost then:
--   * installation (1885827445, 0): installers wait.
--   * ticks of a queue (1885827446, queue_id): the queue is skipped, with a WARNING once its events have waited.
--   * the leading ticker (1885827447, 0): if ticks are late, standby tickers tick without the lead.
--   * ledger rotation, _append, sequences (1885827448; 0, 1, 2): skipped until the next call.
--   * the name of a queue (_name_key, 64 bits): senders share it, drop_queue holds it alone. A send never waits for it.
-- pgque doctor names the session.

create or replace function pgque._need_last_tick(q pgque.queue)
returns pgque.tick
language plpgsql
as $$
declare
    last pgque.tick := pgque._last_tick(q.queue_id);
begin
    if last.tick_id is null then
        raise exception 'queue % has lost its ticks', q.queue_name
            using errcode = 'PQ011', hint = 'Its rows in pgque.tick were deleted by hand. Drop and recreate the queue.';
    elsif pgque._is_from_the_future(last.tick_snapshot) then
        return pgque._rebase_ticks(q, last);
    elsif pgque._sequence_value(q.queue_event_seq) < last.tick_seq_after then
        perform pgque._advance_event_ids(q, last, false);
    end if;
    return last;
end
$$;
comment on function pgque._need_last_tick(pgque.queue) is
    'Returns the newest tick of a queue. Rebases the queue or advances its sequence first if that is needed. Raises '
    'PQ011 if the queue has no tick.';

create or replace function pgque._times_forced(q pgque.queue)
returns bigint
language sql volatile
as $$
    select coalesce(pg_sequence_last_value(to_regclass(pgque._force_sequence(q))), 0)
$$;
comment on function pgque._times_forced(pgque.queue) is
    'Returns how often force_next_tick was called, or 0 if the sequence does not exist, for example after a restore '
    'without it.';

create or replace function pgque._is_due(q pgque.queue, last pgque.tick)
returns boolean
language plpgsql
as $$
declare
    seq bigint := pgque._sequence_value(q.queue_event_seq);
begin
    return pgque._times_forced(q) <> coalesce(last.tick_forced, 0)
        or (seq > last.tick_seq_before
            and (pgque._is_past(last.tick_time, q.queue_ticker_max_lag) or seq - last.tick_seq_after >= q.queue_ticker_max_count))
        or pgque._finished(last.tick_waiting, pg_current_snapshot())
        or (q.queue_ticker_idle_period > interval '0' and pgque._is_past(last.tick_time, q.queue_ticker_idle_period));
end
$$;
comment on function pgque._is_due(pgque.queue, pgque.tick) is
    'Returns true if a tick may see something new, was forced, or is due after the idle period.';

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
                hint = 'Take its ticks with pgque.ticker(queue, tick_id, orig_timestamp, event_seq).';
    end if;
end
$$;
comment on function pgque._refuse_ticks(pgque.queue) is
    'Raises PQ010 if the queue is paused or has an external ticker.';

create or replace function pgque.force_next_tick(queue text)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
    newest bigint := (pgque._last_tick(q.queue_id)).tick_id;
begin
    perform pgque._refuse_ticks(q);
    -- The row is locked first, because drop_queue waits for it before it locks anything else. The sequence stays locked
    -- until the commit.
    perform from pgque.queue t where t.queue_id = q.queue_id for key share;
    if not found then
        raise exception 'queue not found: %', queue using errcode = 'PQ001', hint = 'It has just been dropped.';
    elsif to_regclass(pgque._force_sequence(q)) is null then
        perform pgque._make_force_sequence(q.queue_data_pfx); -- the sequence was not restored
    end if;
    perform nextval(pgque._force_sequence(q)::regclass);
    return newest;
end
$$;
comment on function pgque.force_next_tick(text) is
    'Makes the next ticker call tick even if nothing is new, and returns the newest tick so far. Takes no tick '
    'itself. Takes effect at once, even if the caller rolls back.';

create or replace function pgque.force_tick(queue text)
returns bigint
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select pgque.force_next_tick(queue)
$$;
comment on function pgque.force_tick(text) is 'Same as force_next_tick, under its older name.';

create or replace function pgque._unticked_for(q pgque.queue, last pgque.tick)
returns interval
language plpgsql
as $$
declare
    age interval := clock_timestamp() - last.tick_time;
    first timestamptz;
begin
    if age >= '0' and age < '1 second' then
        return age; -- no event can have waited longer
    end if;
    -- Does not wait for the lock: drop_queue locks the log before the sequence, which the caller has locked.
    execute format('lock table %s in access share mode nowait', q.queue_data_pfx);
    execute format(
        'select e.ev_time
        from %s e
        where e.ev_owner is null
            and e.ev_txid >= $1
        order by e.ev_txid, e.ev_id
        limit 1', q.queue_data_pfx)
        into first
        using pg_snapshot_xmax(last.tick_snapshot);
    return coalesce(greatest(clock_timestamp() - first, '0'), '0'); -- 0 if nothing is committed
exception
    when lock_not_available or undefined_table then
        return interval '0'; -- the log is being rotated or dropped
end
$$;
comment on function pgque._unticked_for(pgque.queue, pgque.tick) is
    'Returns the age of the oldest event that is newer than the last tick, or 0 if none is committed.';

create or replace function pgque._is_late(q pgque.queue)
returns boolean
language plpgsql
as $$
declare
    last pgque.tick := pgque._last_tick(q.queue_id);
begin
    return coalesce(pgque._sequence_seen(q.queue_event_seq), 0) > last.tick_seq_after
        and pgque._unticked_for(q, last) > q.queue_ticker_max_lag + interval '5 seconds';
end
$$;
comment on function pgque._is_late(pgque.queue) is
    'Returns true if a committed event has waited for a tick more than 5 seconds longer than ticker_max_lag.';

create or replace function pgque.ticks_are_late()
returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select
        from pgque.queue q
        where not q.queue_ticker_paused
            and not q.queue_external_ticker
            and pgque._is_late(q)
    );
end
$$;
comment on function pgque.ticks_are_late() is
    'Returns true if an event of any queue has waited for a tick more than 5 seconds longer than ticker_max_lag. The '
    'leading ticker is then not ticking.';

create or replace function pgque._warn_of_held_tick(q pgque.queue)
returns void
language plpgsql
as $$
declare
    holder int;
begin
    if not pgque._is_late(q) then
        return; -- another ticker is working on the queue
    end if;
    holder := pgque._advisory_holder(1885827446, q.queue_id);
    -- A ticker tries a thousand times a second.
    if holder is null
        or clock_timestamp() - nullif(current_setting('pgque.warned_at', true), '')::timestamptz between '0' and '10 seconds'
    then
        return;
    end if;
    perform set_config('pgque.warned_at', to_jsonb(clock_timestamp()) #>> '{}', false);
    raise warning 'pgque: no tick of queue % for more than 5 seconds: backend % holds the lock 1885827446, %',
        q.queue_name, holder, q.queue_id;
end
$$;
comment on function pgque._warn_of_held_tick(pgque.queue) is
    'Warns that a late queue is not ticked and names the backend that holds its lock, at most once in 10 seconds.';
