-- After a restore: a log with transaction ids of another cluster continues in this one.
--
-- Invariant: after a restore, the first call of a ticker or of maintenance rebases every queue before anything is
-- ticked, rotated or put back. Two ticks close the old life of a log and open the new one: the first sees every old
-- event and no other, the second sees none. Its floor, the greatest old ev_id, tells the lives apart if their transaction
-- ids overlap. The window between ticks with different floors is empty by definition (see batch).
--
-- Signs of a restore: another cluster identifier, another oid of pgque.config (a restored table gets a new one), and ticks
-- that lie in the future. The rows' own xmin tells restored rows from later ones, because pg_dump restores data before it
-- makes indexes. repair replaces rows that the dump lacks.

create or replace function pgque._cluster_id()
returns bigint
language plpgsql
as $$
begin
    if has_function_privilege('pg_control_system()', 'execute') then
        return (select s.system_identifier from pg_control_system() s);
    end if;
    return null;
end
$$;
comment on function pgque._cluster_id() is 'Returns the identifier of this cluster, or NULL if the provider hides it.';

create or replace function pgque._is_restored(here bigint)
returns boolean
language plpgsql volatile
as $$
begin
    -- The newest ticks are checked too: a physical clone has the identifier of its origin, some providers hide the
    -- identifier, and a repeated install may have stored the server's start time.
    return coalesce((
        select g.cluster_id is distinct from here or g.table_id <> 'pgque.config'::regclass
        from pgque.config g
        where g.singleton
    ), false) or exists (
        select
        from pgque.queue q
        cross join lateral pgque._last_tick(q.queue_id) newest
        where pgque._is_from_the_future(newest.tick_snapshot)
    );
end
$$;
comment on function pgque._is_restored(bigint) is
    'Returns true if this database was restored into the cluster with this identifier and no call has handled the '
    'restore yet.';

create or replace function pgque._retry_unseen_redeliveries(q pgque.queue)
returns void
language plpgsql
as $$
begin
    -- Redeliveries keep their old ev_id, so a floor cannot tell the lives of the log apart for them.
    execute format(
        'insert into pgque.retry_queue (
            ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry, ev_type, ev_data,
            ev_extra1, ev_extra2, ev_extra3, ev_extra4
        )
        select distinct on (e.ev_owner, e.ev_id)
            clock_timestamp(), $1, e.ev_id, e.ev_time, e.ev_txid, e.ev_owner, e.ev_retry, e.ev_type, e.ev_data,
            e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
        from %s e
        join pgque.subscriber s on e.ev_owner in (s.sub_id, s.sub_group)
        cross join lateral pgque._position(s.sub_id) c
        join pgque.tick earlier on earlier.tick_queue = $1 and earlier.tick_id = c.cur_tick
        left join pgque.tick later on later.tick_queue = $1 and later.tick_id = c.cur_next_tick
        where e.ev_owner is not null
            and not pg_visible_in_snapshot(e.ev_txid, earlier.tick_snapshot)
            and case
                when s.sub_group is null then
                    (c.cur_place).txid is null
                    or (e.ev_txid, e.ev_id) > ((c.cur_place).txid, (c.cur_place).id)
                    or not pg_visible_in_snapshot(e.ev_txid, later.tick_snapshot)
                else
                    pg_visible_in_snapshot(e.ev_txid, later.tick_snapshot)
                    and ((c.cur_place).txid is null or (e.ev_txid, e.ev_id) > ((c.cur_place).txid, (c.cur_place).id))
                    and ((c.cur_end).txid is null or (e.ev_txid, e.ev_id) <= ((c.cur_end).txid, (c.cur_end).id))
            end
        order by e.ev_owner, e.ev_id, e.ev_retry desc
        on conflict (ev_owner, ev_id) do nothing', q.queue_data_pfx)
        using q.queue_id;
    execute format('delete from %s where ev_owner is not null', q.queue_data_pfx);
end
$$;
comment on function pgque._retry_unseen_redeliveries(pgque.queue) is
    'Moves unfinished redeliveries from the log to the retry queue, to be put back with a transaction id of this '
    'cluster.';

create or replace function pgque._rebase_ticks(q pgque.queue, last pgque.tick)
returns pgque.tick
language plpgsql
as $$
declare
    greatest_txid numeric; -- max(xid8) exists from PostgreSQL 15 on
    boundary bigint;
    t pgque.tick := last;
begin
    raise warning 'pgque: queue % was restored from another cluster or database; its ticks are rebased', q.queue_name;
    execute format(
        'select max(ev_txid::text::numeric), max(ev_id) from %s where age(xmin) >= $1 or ev_txid >= $2', q.queue_data_pfx)
        into greatest_txid, boundary
        using pgque._restored_age(), pg_snapshot_xmax(pg_current_snapshot());
    perform pgque._retry_unseen_redeliveries(q);
    boundary := greatest(boundary, last.tick_seq_after);
    greatest_txid := greatest(greatest_txid, pg_snapshot_xmax(last.tick_snapshot)::text::numeric);

    t.tick_id := last.tick_id + 1;
    t.tick_time := clock_timestamp();
    t.tick_snapshot := format('%1$s:%1$s:', greatest_txid + 1);
    t.tick_seq_before := boundary;
    t.tick_seq_after := boundary;
    t.tick_event_seq := greatest(boundary, last.tick_event_seq);
    t.tick_waiting := '{}';
    perform pgque._insert_tick(t);

    perform nextval(q.queue_event_seq::regclass); -- the next boundary must be above this one
    t.tick_id := last.tick_id + 2;
    t.tick_snapshot := '3:3:';
    t.tick_floor := boundary;
    perform pgque._insert_tick(t);
    update pgque.queue set queue_floor = boundary where queue_id = q.queue_id;
    perform pgque._make_log_functions(q.queue_id);
    return t;
end
$$;
comment on function pgque._rebase_ticks(pgque.queue, pgque.tick) is
    'Closes the log''s life in another cluster and returns the first tick of its life in this one.';

create or replace function pgque._begin_life(q pgque.queue)
returns void
language plpgsql
as $$
begin
    perform pgque._advance_event_ids(q, pgque._last_tick(q.queue_id), true);
    perform pgque._replace_lost_ticks(q);
    perform pgque._replace_lost_positions(q);
    perform pgque._rebase_ticks(q, pgque._last_tick(q.queue_id));
    perform pgque._report_lost_events(q);
end
$$;
comment on function pgque._begin_life(pgque.queue) is
    'Replaces rows that the dump of a queue lacks and rebases its ticks. The caller must hold the lock of the '
    'queue''s ticker.';

create or replace function pgque._after_restore()
returns void
language plpgsql
as $$
declare
    here bigint;
    q pgque.queue;
begin
    if (
        select g.checked_in = pg_postmaster_start_time() and g.table_id = 'pgque.config'::regclass
        from pgque.config g
        where g.singleton
    ) then
        return;
    end if;
    here := pgque._cluster_id();
    if not pgque._is_restored(here) then
        if transaction_timestamp() = statement_timestamp() then -- others wait for the row, so not in a long transaction
            update pgque.config g
            set checked_in = pg_postmaster_start_time(),
                table_id = 'pgque.config'::regclass
            where g.singleton;
        end if;
        return;
    end if;
    -- Other sessions wait here and then find that the first one has done everything.
    perform from pgque.config g where g.singleton for no key update;
    if not pgque._is_restored(here) then
        return;
    end if;
    perform pgque._merge_ledger();
    perform pgque._advance_sequences(true);
    for q in select * from pgque.queue t order by t.queue_id loop
        begin
            perform pg_advisory_xact_lock(1885827446, q.queue_id); -- the lock of the queue's ticker
            perform pgque._begin_life(q);
        exception
            when others then
                raise warning 'pgque: queue % was restored, but not rebased: % (%)', q.queue_name, sqlerrm, sqlstate;
        end;
    end loop;
    update pgque.config g
    set cluster_id = here,
        checked_in = pg_postmaster_start_time(),
        table_id = 'pgque.config'::regclass
    where g.singleton;
end
$$;
comment on function pgque._after_restore() is
    'Repairs and rebases every queue if this database was restored since the last call. Tickers and maintenance call '
    'it first.';

update pgque.config g
set cluster_id = case when g.checked_in is null then pgque._cluster_id() else g.cluster_id end,
    checked_in = coalesce(g.checked_in, pg_postmaster_start_time()),
    table_id = coalesce(g.table_id, 'pgque.config'::regclass)
where g.singleton
    and (g.checked_in is null or g.table_id is null);
