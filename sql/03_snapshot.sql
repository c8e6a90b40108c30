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
    'Transactions that were in progress at the earlier tick and had finished at the later one.';

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
    'Whether a snapshot of this cluster cannot look like that: it was restored, though _cluster_id does not tell.';

create or replace function pgque._snapshot()
returns pg_snapshot
language plpgsql volatile
as $$
declare
    fixed int := age('3'::xid); -- from here on age() counts from the transaction id that is next now
    snap pg_snapshot;
    xmax xid8;
    after_xmax xid8;
    outdated boolean := true;
    running xid8[];
begin
    -- PostgreSQL's xmax is the last transaction that has finished, plus one: younger ones may run already,
    -- and have taken ids, without being listed. They are listed here, for in a transaction without an id of
    -- its own age() counts from the next one to be assigned. Where it has an id, or somebody called age()
    -- earlier in it, so that this one is assigned already, or where there are many (savepoints have ids
    -- too), a younger transaction is made and finished, which leaves only those that PostgreSQL lists.
    snap := pg_current_snapshot();
    xmax := pg_snapshot_xmax(snap);
    after_xmax := (xmax::text::numeric + greatest(age(xmax::xid), 0))::text::xid8;
    if pg_current_xact_id_if_assigned() is null and age(xmax::xid) <= 20 then
        begin
            perform pg_xact_status(after_xmax);
        exception
            when invalid_parameter_value then outdated := false; -- "is in the future"
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
        -- It leaves out the own transaction. What that sends after the tick would then lie outside of every
        -- batch, so it counts as in progress like any other.
        running := array(
            select txid
            from (select pg_snapshot_xip(snap) union all select pg_current_xact_id()) open_now (txid)
            where txid < xmax -- the own one is not, where create_queue runs in an old snapshot
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
    'What is committed now; the caller''s own transaction is not. Whoever gets an id later gets xmax or a greater one.';

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
