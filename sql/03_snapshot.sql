-- Snapshots: the committed transactions, and those that may still commit.
--
-- Invariant: a transaction that gets its id after the call of _snapshot is at the snapshot's xmax or above. The caller's
-- own transaction, which may still send, counts as in progress.

create or replace function pgque._late(earlier pg_snapshot, later pg_snapshot)
returns xid8[]
language sql immutable
as $$
    select array(
        select txid
        from pg_snapshot_xip(earlier) as txid
        where pg_visible_in_snapshot(txid, later)
    )
$$;
comment on function pgque._late(pg_snapshot, pg_snapshot) is
    'Returns the transactions that were in progress in the earlier snapshot and had finished in the later one.';

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
    'Returns true if no transaction of this cluster can have this snapshot: it was restored, even if _cluster_id did '
    'not change.';

create or replace function pgque._snapshot()
returns pg_snapshot
language plpgsql volatile
as $$
declare
    fixed int := age('3'::xid); -- from here on, age() counts from the next transaction id
    snap pg_snapshot;
    xmax xid8;
    after_xmax xid8;
    outdated boolean := true;
    running xid8[];
begin
    -- PostgreSQL's xmax is the latest finished transaction plus one. Younger transactions may already run and have
    -- taken event ids without being listed. They are added here: in a transaction without an id, age() counts from the
    -- next id to be assigned. That count is outdated if this transaction has an id, or if an earlier age() call in it
    -- fixed an id that has been assigned since. In these cases, or if there are many such transactions (savepoints have
    -- ids too), a younger transaction is started and finished. After that, PostgreSQL lists all others.
    snap := pg_current_snapshot();
    xmax := pg_snapshot_xmax(snap);
    after_xmax := (xmax::text::numeric + greatest(age(xmax::xid), 0))::text::xid8;
    if pg_current_xact_id_if_assigned() is null and age(xmax::xid) <= 20 then
        begin
            perform pg_xact_status(after_xmax);
        exception
            when invalid_parameter_value then outdated := false; -- the error "is in the future"
        end;
    end if;
    if outdated then
        begin
            perform pg_logical_emit_message(true, 'pgque', ''); -- gives this block a transaction id
            raise exception using errcode = 'PQUND';
        exception
            when sqlstate 'PQUND' then null;
        end;
        snap := pg_current_snapshot();
        xmax := pg_snapshot_xmax(snap);
        -- The snapshot leaves out the caller's own transaction. Events that it sends after the tick would then be
        -- outside every batch, so it counts as in progress like any other.
        running := array(
            select txid
            from (select pg_snapshot_xip(snap) union all select pg_current_xact_id()) open_now (txid)
            where txid < xmax -- false for the caller's own id if create_queue runs in an old snapshot
            order by txid
        );
        return format('%s:%s:%s', coalesce(running[1], xmax), xmax, array_to_string(running, ','));
    end if;
    if after_xmax = xmax then
        return snap;
    end if;
    running := array(select pg_snapshot_xip(snap)) || array(
        select txid::text::xid8
        from generate_series(xmax::text::numeric, after_xmax::text::numeric - 1) as txid
    );
    return format('%s:%s:%s', running[1], after_xmax, array_to_string(running, ','));
end
$$;
comment on function pgque._snapshot() is
    'Returns a snapshot of everything committed now, without the caller''s own transaction. A transaction that gets '
    'its id later gets xmax or a greater id.';

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
comment on function pgque._finished(xid8[], pg_snapshot) is
    'Returns true if the snapshot sees the end of any of these transactions.';
