-- After a restore into a cluster whose transaction ids are younger.
--
-- Invariant: stored snapshots lie in the future then, so no new event would ever follow the last
-- tick. Two ticks close the old life of the log and open the new one: the first sees every old
-- event, the second none of either life. Its floor keeps old transaction ids from being mistaken for
-- new ones, and the window between ticks of different floors is empty by definition (04_batch.sql).

create or replace function pgque._is_from_the_future(snap pg_snapshot)
returns boolean
language plpgsql volatile
as $$
begin
    return pg_snapshot_xmax(snap)
        > greatest(pg_snapshot_xmax(pg_current_snapshot()), pg_current_xact_id_if_assigned());
end
$$;
comment on function pgque._is_from_the_future(pg_snapshot) is
    'Whether a snapshot of this cluster cannot look like that: it was restored from another one.';

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
        join pgque.tick t on t.tick_queue = $1 and t.tick_id = (pgque._position(s.sub_id)).cur_tick
        where e.ev_owner is not null
            and not pg_visible_in_snapshot(e.ev_txid, t.tick_snapshot)
        order by e.ev_owner, e.ev_id, e.ev_retry desc
        on conflict (ev_owner, ev_id) do nothing', q.queue_data_pfx)
        using q.queue_id;
    execute format('delete from %s where ev_owner is not null', q.queue_data_pfx);
end
$$;
comment on function pgque._retry_unseen_redeliveries(pgque.queue) is
    'Takes redeliveries that were not seen out of the log, to be put back with a transaction id of this cluster.';
