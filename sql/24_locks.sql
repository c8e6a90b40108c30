-- Advisory locks: which there are, and what happens while a session that is not pgque's holds one.
--
-- Invariant: nothing is lost by it. PostgreSQL lets any session that may connect take any advisory lock, so:
--   * 1885827445, 0: installations. They wait.
--   * 1885827446, queue_id: ticks of a queue. They are skipped, with a WARNING once its events have waited.
--   * 1885827447, 0: the lead among tickers. Where ticks are late those who stand by tick without it.
--   * 1885827448, 0 and 1: rotation of the ledger, and making pgque._append. They are skipped.
--   * _name_key(queue_name), 64 bits: sends share the queue's name, and drop_queue has it alone. A send never waits for
--     it (02_log.sql); drop_queue does.
-- pgque doctor names the session.

create or replace function pgque._advisory_holder(class int, key int)
returns int
language sql volatile
as $$
    select l.pid
    from pg_locks l
    where l.locktype = 'advisory'
        and l.classid = class::oid
        and l.objid = key::oid
        and l.objsubid = 2
        and l.granted
        and l.database = (select d.oid from pg_database d where d.datname = current_database())
    limit 1
$$;
comment on function pgque._advisory_holder(int, int) is 'The backend that holds an advisory lock of two keys; NULL if none does.';

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
    'Whether a committed event has waited for a tick for more than 5 seconds longer than ticker_max_lag.';

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
    'Whether the events of any queue have waited for a tick for more than 5 seconds: one that leads does not tick then.';

create or replace function pgque._warn_of_held_tick(q pgque.queue)
returns void
language plpgsql
as $$
declare
    holder int;
begin
    if not pgque._is_late(q) then
        return; -- another ticker is at it
    end if;
    holder := pgque._advisory_holder(1885827446, q.queue_id);
    -- A ticker comes back a thousand times a second.
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
    'A WARNING that names the backend which keeps a late queue from being ticked; once in 10 seconds.';
