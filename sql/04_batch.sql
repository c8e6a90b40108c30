-- Batches: where a subscriber stands, the events between two ticks, opening and finishing.
--
-- Invariant: a position is read only under the lock of its subscriber's row and in a statement that
-- begins after the lock is held, and it changes by inserting the next row, whose cur_seq is one
-- higher. A caller whose snapshot is older than the newest row (REPEATABLE READ, SERIALIZABLE)
-- collides with that row's key and gets a serialization failure, never an old position.
-- Locks are taken in this order: queue, member, group (a sibling's row only with SKIP LOCKED), the log,
-- its sequence.

create or replace function pgque._lock_position(subscriber_id int)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    c pgque.cursor;
begin
    perform from pgque.subscriber t where t.sub_id = subscriber_id for update;
    if found then
        c := pgque._position(subscriber_id);
        if c.cur_sub is null and pgque._isolated_from_commits() then
            perform pgque._raise_moved_on('the consumer');
        elsif c.cur_sub is null then
            raise exception 'subscription % has lost its place', subscriber_id
                using errcode = 'PQ011', hint = 'Its rows in pgque.cursor were removed by hand; subscribe it again.';
        end if;
        if pgque._isolated_from_commits() then
            c := pgque._move(c);
        end if;
    end if;
    return c;
end
$$;
comment on function pgque._lock_position(int) is
    'Locks a subscriber and returns where it stands; a row of NULLs where it is gone; 40001 where the snapshot is too old.';

create or replace function pgque._subscriber(queue text, consumer text)
returns pgque.subscriber
language plpgsql stable
as $$
declare
    s pgque.subscriber;
begin
    select t.* into s
    from pgque.queue q
    join pgque.consumer c on c.co_name = consumer
    join pgque.subscriber t on t.sub_queue = q.queue_id and t.sub_consumer = c.co_id
    where q.queue_name = _subscriber.queue;
    if not found then
        perform pgque._queue(queue);
        perform pgque._raise_not_subscribed(queue, consumer);
    end if;
    return s;
end
$$;
comment on function pgque._subscriber(text, text) is 'The subscription of that name; PQ001 or PQ002 where there is none.';

create or replace function pgque._raise_not_subscribed(queue text, consumer text)
returns void
language plpgsql
as $$
begin
    raise exception 'Not subscriber to queue: %/% (consumer not registered)',
        queue, coalesce(consumer, '<NULL>')
        using errcode = 'PQ002', hint = 'Subscribe it with pgque.subscribe(queue, consumer).';
end
$$;
comment on function pgque._raise_not_subscribed(text, text) is 'Raises PQ002.';

create or replace function pgque._lock_normal(s pgque.subscriber, queue text, consumer text)
returns pgque.cursor
language plpgsql
as $$
declare
    c pgque.cursor := pgque._lock_position(s.sub_id);
begin
    if c.cur_sub is null then
        perform pgque._raise_not_subscribed(queue, consumer);
    end if;
    -- After the lock, for register_subconsumer takes the same one.
    perform pgque._refuse_cooperative(s, consumer);
    return c;
end
$$;
comment on function pgque._lock_normal(pgque.subscriber, text, text) is
    'Locks a consumer that works alone and returns where it stands; PQ007 for cooperative names.';

create or replace function pgque._refuse_cooperative(s pgque.subscriber, consumer text)
returns void
language plpgsql
as $$
begin
    if s.sub_group is not null then
        raise exception '% is a cooperative subconsumer', consumer
            using errcode = 'PQ007',
                hint = 'Use receive_coop, next_batch or unregister_subconsumer with queue, consumer and subconsumer.';
    elsif exists (select from pgque.subscriber m where m.sub_group = s.sub_id) then
        raise exception '% is a cooperative main consumer', consumer
            using errcode = 'PQ007',
                hint = 'Use receive_coop, next_batch or unregister_subconsumer with queue, consumer and subconsumer.';
    end if;
end
$$;
comment on function pgque._refuse_cooperative(pgque.subscriber, text) is
    'PQ007, naming the calls to use, where the subscription belongs to a cooperative group.';

-- Windows

create or replace function pgque._window_end(queue_id int, start pgque.tick, wanted int)
returns pgque.tick
language plpgsql volatile
as $$
declare
    t pgque.tick;
    further pgque.tick;
begin
    select * into t from pgque._ticks_after(queue_id, start.tick_id, 1);
    if wanted is null or t.tick_id is null or t.tick_floor <> start.tick_floor then
        return t;
    end if;
    -- Several windows in one, as long as they hold about as many events as are wanted.
    select * into further
    from pgque._ticks_after(queue_id, t.tick_id, 500) next_ticks
    where next_ticks.tick_floor = start.tick_floor
        and next_ticks.tick_seq_after <= start.tick_seq_after + wanted
    order by next_ticks.tick_id desc
    limit 1;
    if found then
        return further;
    end if;
    return t;
end
$$;
comment on function pgque._window_end(int, pgque.tick, int) is
    'The tick that ends the window after start: the next one, or with wanted a later one up to about so many events.';

create or replace function pgque._event_arm(source text, condition text, sorting text)
returns text
language sql immutable
as $$
    select format(
        'select ev_id, ev_time, ev_txid::text::bigint as ev_txid, coalesce(ev_retry, 0) as ev_retry, ev_type, ev_data, '
        'ev_extra1, ev_extra2, ev_extra3, ev_extra4 from %s e where %s order by %s limit $9', source, condition, sorting)
$$;
comment on function pgque._event_arm(text, text, text) is 'One arm of the union in _window_sql.';

-- $1 ids above this, $2 ids up to this, $3 the earlier tick's xmax, $4 the later snapshot, $5 transactions
-- in progress at the earlier tick and finished at the later one, $6 owner, $7 floor, $8 place, $9 limit,
-- $10 transactions of this window with redeliveries to the owner.
-- Three arms: transactions that began after the earlier tick, by ev_id; those that were in progress, by
-- value; redeliveries, whose ids are old, by the transaction that put them back. Each stops at the
-- limit, so a large window is read in pieces without sorting it. A log has no statistics worth the name
-- while it is filled, so each arm is written such that only the index meant for it can serve: (ev_id) for
-- the first, hence xid8cmp; (ev_txid, ev_id) and (ev_owner, ev_txid, ev_id) for the others.
create or replace function pgque._window_sql(log text, late boolean, redelivered boolean)
returns text
language sql immutable
as $$
    select 'select * from (('
        || pgque._event_arm(log, 'ev_id > $1 and ev_id <= $2 and ev_owner is null and xid8cmp(ev_txid, $3) >= 0 '
            'and pg_visible_in_snapshot(ev_txid, $4)', 'ev_id')
        || case when late then
            ') union all (select late.* from unnest($5) as txid cross join lateral ('
            || pgque._event_arm(log, '(ev_txid, ev_id) > (txid, $8) and ev_txid <= txid and ev_id <= $2 '
                'and (ev_owner = $6 or (ev_owner is null and ev_id > $7))', 'e.ev_txid, e.ev_id')
            || ') late'
        else '' end
        || case when redelivered then
            ') union all (select again.* from unnest($10) as txid cross join lateral ('
            || pgque._event_arm(log, '(ev_owner, ev_txid, ev_id) > ($6, txid, $8) and ev_owner <= $6 and ev_txid <= txid '
                'and ev_id <= $2', 'e.ev_owner, e.ev_txid, e.ev_id')
            || ') again'
        else '' end
        || ')) event order by ev_id limit $9'
$$;
comment on function pgque._window_sql(text, boolean, boolean) is 'The query for the events between two ticks of a log.';

create or replace function pgque._late(earlier pgque.tick, later pgque.tick)
returns xid8[]
language sql immutable
as $$
    select array(
        select txid
        from pg_snapshot_xip(earlier.tick_snapshot) as txid
        where pg_visible_in_snapshot(txid, later.tick_snapshot)
    )
$$;
comment on function pgque._late(pgque.tick, pgque.tick) is
    'Transactions that were in progress at the earlier tick and had finished at the later one.';

create or replace function pgque._redelivered(q pgque.queue, owner int, earlier pgque.tick, later pgque.tick)
returns xid8[]
language plpgsql
as $$
declare
    present boolean;
    txids xid8[];
begin
    execute format('select exists (select from %s where ev_owner = $1 and ev_txid >= $2 and ev_txid < $3)', q.queue_data_pfx)
        into present
        using owner, pg_snapshot_xmax(earlier.tick_snapshot), pg_snapshot_xmax(later.tick_snapshot);
    if not present then
        return '{}';
    end if;
    -- One probe of the index for each transaction, however many events it has put back.
    execute format(
        'with recursive redelivery (txid) as (
            (
                select ev_txid from %1$s
                where (ev_owner, ev_txid) >= ($1, $2) and ev_owner <= $1 and ev_txid < $3
                order by ev_owner, ev_txid
                limit 1
            )
            union all
            select (
                select ev_txid from %1$s
                where (ev_owner, ev_txid) > ($1, txid) and ev_owner <= $1 and ev_txid < $3
                order by ev_owner, ev_txid
                limit 1
            )
            from redelivery
            where txid is not null
        )
        select array(select txid from redelivery where pg_visible_in_snapshot(txid, $4))', q.queue_data_pfx)
        into txids
        using owner, pg_snapshot_xmax(earlier.tick_snapshot), pg_snapshot_xmax(later.tick_snapshot), later.tick_snapshot;
    return txids;
end
$$;
comment on function pgque._redelivered(pgque.queue, int, pgque.tick, pgque.tick) is
    'Transactions that began after the earlier tick and have put events back for this owner before the later one.';

create or replace function pgque._events(
    q pgque.queue, owner int, earlier pgque.tick, later pgque.tick, place bigint, upto bigint, max_return int
)
returns table (
    ev_id bigint, ev_time timestamptz, ev_txid bigint, ev_retry int, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text
)
language plpgsql
as $$
declare
    late xid8[];
    redelivered xid8[];
begin
    if earlier.tick_floor <> later.tick_floor then
        return; -- between two lives of the log there is nothing: see 15_restore.sql
    elsif earlier.tick_floor <> q.queue_floor then
        owner := null; -- redeliveries of an earlier life were taken out of the log
    end if;
    late := pgque._late(earlier, later);
    begin
        redelivered := pgque._redelivered(q, owner, earlier, later);
        return query execute pgque._window_sql(q.queue_data_pfx, late <> '{}', redelivered <> '{}')
            using greatest(earlier.tick_seq_before, place),
                least(later.tick_seq_after, upto),
                pg_snapshot_xmax(earlier.tick_snapshot),
                later.tick_snapshot,
                late,
                owner,
                earlier.tick_floor,
                coalesce(place, -1),
                max_return,
                redelivered;
        -- Gives the locks on the log back, or handlers that take long would keep it from being rotated
        -- for ever. What the subscriber's position has not passed is not truncated, locks or not.
        raise exception using errcode = 'PQUND';
    exception
        when sqlstate 'PQUND' then null;
    end;
end
$$;
comment on function pgque._events(pgque.queue, int, pgque.tick, pgque.tick, bigint, bigint, int) is
    'The events between two ticks for one owner, after a place and up to another, by ev_id.';

create or replace function pgque._pass_over_nothing(q pgque.queue, owner int, start pgque.tick)
returns pgque.tick
language plpgsql
as $$
declare
    t pgque.tick;
    span int := 2;
begin
    loop
        select * into t
        from pgque._ticks_after(q.queue_id, start.tick_id, span) k
        where k.tick_floor = start.tick_floor
        order by k.tick_id desc
        limit 1;
        if t.tick_id is null then
            return start;
        elsif not exists (select from pgque._events(q, owner, start, t, null, null, 1)) then
            start := t;
            span := least(2 * span, 500);
        elsif span > 1 then
            span := span / 2;
        else
            return start;
        end if;
    end loop;
end
$$;
comment on function pgque._pass_over_nothing(pgque.queue, int, pgque.tick) is
    'The last tick after start before there is an event for this owner: many empty windows cost little more than one.';

-- Batches by id

create or replace function pgque._find_batch(batch_id bigint, lock boolean)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    holder int := pgque._batch_holder(batch_id);
    c pgque.cursor;
begin
    if lock and holder is not null then
        c := pgque._lock_position(holder);
    elsif lock and pgque._isolated_from_commits() then
        -- Perhaps its row went to the other child of the ledger after our snapshot: 40001 if so.
        perform from pgque.config g where g.singleton for share;
    elsif exists (select from pgque.subscriber s where s.sub_id = holder) then
        c := pgque._position(holder);
    end if;
    if c.cur_batch = batch_id then
        return c;
    end if;
    return null;
end
$$;
comment on function pgque._find_batch(bigint, boolean) is
    'Where the holder of an open batch stands, locked or not; a row of NULLs where no such batch is open.';

create or replace function pgque._need_batch(batch_id bigint, lock boolean)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    c pgque.cursor := pgque._find_batch(batch_id, lock);
begin
    if c.cur_sub is null then
        raise exception 'batch not found: %', coalesce(batch_id::text, '<NULL>')
            using errcode = 'PQ003', hint = 'It was finished or taken over, or never existed.';
    end if;
    return c;
end
$$;
comment on function pgque._need_batch(bigint, boolean) is 'As _find_batch, with PQ003 where no such batch is open.';

create or replace function pgque._finish_batch(c pgque.cursor, s pgque.subscriber)
returns void
language plpgsql
as $$
begin
    if c.cur_upto is distinct from c.cur_end then
        c.cur_place := c.cur_upto; -- the batch was cut: the rest comes next
    else
        -- A member holds nothing now: the group's own cursor is past this window already.
        c.cur_tick := case when s.sub_group is null then c.cur_next_tick end;
        c.cur_next_tick := null;
        c.cur_place := null;
        c.cur_end := null;
    end if;
    c.cur_batch := null;
    c.cur_upto := null;
    perform pgque._move(c);
end
$$;
comment on function pgque._finish_batch(pgque.cursor, pgque.subscriber) is
    'Moves a subscriber behind its open batch: to the end of the window, or to the place where the batch was cut.';
