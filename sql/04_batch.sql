-- Batches: where a subscriber stands, the events between two ticks, opening and finishing.
--
-- Invariant: a position is read only under the lock of its subscriber's row and in a statement that
-- begins after the lock is held, and it changes by inserting the next row, whose cur_seq is one
-- higher. A caller whose snapshot is older than the newest row (REPEATABLE READ, SERIALIZABLE)
-- collides with that row's key and gets a serialization failure, never an old position.
-- Locks are taken in this order: queue, member, group (a sibling's row only with SKIP LOCKED), tables.

create or replace function pgque._move(inout c pgque.cursor)
language plpgsql
as $$
begin
    c.cur_seq := c.cur_seq + 1;
    c.cur_time := clock_timestamp();
    if pgque._isolated_from_commits() then
        -- The children rotate, so the row to collide with may be in either. A conflict with a row that
        -- the snapshot cannot see is an error of its own (40001) under these isolation levels.
        insert into pgque.cursor_0 select c.* on conflict do nothing;
        insert into pgque.cursor_1 select c.* on conflict do nothing;
    elsif (select ledger_child from pgque.config) = 0 then
        insert into pgque.cursor_0 select c.*;
    else
        insert into pgque.cursor_1 select c.*;
    end if;
end
$$;
comment on function pgque._move(pgque.cursor) is 'Writes the next row of a cursor: the row as written.';

create or replace function pgque._position(subscriber_id int)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    c pgque.cursor;
begin
    select * into c
    from pgque.cursor t
    where t.cur_sub = subscriber_id
    order by t.cur_seq desc
    limit 1;
    return c;
end
$$;
comment on function pgque._position(int) is 'The newest row of a cursor, as this statement''s snapshot sees it.';

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
        if c.cur_sub is null then
            -- The ledger was rotated after this transaction's snapshot.
            raise exception 'could not serialize access: the consumer has moved on'
                using errcode = 'serialization_failure', hint = 'Retry the transaction.';
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

create or replace function pgque._get_tick(queue_id int, tick_id bigint)
returns pgque.tick
language plpgsql stable
as $$
declare
    t pgque.tick;
begin
    select * into t
    from pgque.tick k
    where k.tick_queue = queue_id
        and k.tick_id = _get_tick.tick_id;
    if tick_id is not null and t.tick_id is null then
        if pgque._isolated_from_commits() then
            -- The ledger was rotated after this transaction's snapshot.
            raise exception 'could not serialize access: tick % has moved', tick_id
                using errcode = 'serialization_failure', hint = 'Retry the transaction.';
        end if;
        raise exception 'tick not found: %, at which this consumer stands', tick_id
            using errcode = 'PQ011', hint = 'Move the consumer with pgque.seek(queue, consumer, tick_id).';
    end if;
    return t;
end
$$;
comment on function pgque._get_tick(int, bigint) is
    'A tick at which somebody stands, by its id; a row of NULLs for NULL; PQ011 where it is not kept.';

create or replace function pgque._window_end(queue_id int, start pgque.tick, wanted int)
returns pgque.tick
language plpgsql stable
as $$
declare
    t pgque.tick;
    further pgque.tick;
begin
    select * into t
    from pgque.tick k
    where k.tick_queue = queue_id
        and k.tick_id > start.tick_id
    order by k.tick_id
    limit 1;
    if wanted is null or t.tick_id is null or t.tick_floor <> start.tick_floor then
        return t;
    end if;
    -- Several windows in one, as long as they hold about as many events as are wanted.
    select * into further
    from (
        select *
        from pgque.tick k
        where k.tick_queue = queue_id
            and k.tick_id > t.tick_id
        order by k.tick_id
        limit 500
    ) next_ticks
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
-- $10 ids up to this of the last two arms.
-- Three arms: transactions that began after the earlier tick, by ev_id; redeliveries to this owner, whose
-- ids are old; transactions that were in progress, by value. Each stops at the limit, so a large window
-- is read in pieces without sorting it. A log has no statistics worth the name while it is filled, so
-- each arm is written such that only the index meant for it can serve: (ev_id) for the first, hence
-- xid8cmp; (ev_owner, ev_txid, ev_id) for the second, hence ev_id + 0; (ev_txid, ev_id) for the third.
create or replace function pgque._window_sql(log text, late boolean)
returns text
language sql immutable
as $$
    select 'select * from (('
        || pgque._event_arm(log, 'ev_id > $1 and ev_id <= $2 and ev_owner is null and xid8cmp(ev_txid, $3) >= 0 '
            'and pg_visible_in_snapshot(ev_txid, $4)', 'ev_id')
        || ') union all ('
        || pgque._event_arm(log, 'ev_owner = $6 and ev_txid >= $3 and ev_txid < pg_snapshot_xmax($4) '
            'and pg_visible_in_snapshot(ev_txid, $4) and ev_id + 0 > $8 and ev_id + 0 <= $10', 'e.ev_id + 0')
        || case when late then
            ') union all (select late.* from unnest($5) as txid cross join lateral ('
            || pgque._event_arm(log, '(ev_txid, ev_id) > (txid, $8) and ev_txid <= txid and ev_id <= $10 '
                'and (ev_owner = $6 or (ev_owner is null and ev_id > $7))', 'e.ev_txid, e.ev_id')
            || ') late'
        else '' end
        || ')) event order by ev_id limit $9'
$$;
comment on function pgque._window_sql(text, boolean) is 'The query for the events between two ticks of a log.';

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

create or replace function pgque._events(
    log text, owner int, earlier pgque.tick, later pgque.tick, place bigint, upto bigint, max_return int
)
returns table (
    ev_id bigint, ev_time timestamptz, ev_txid bigint, ev_retry int, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text
)
language plpgsql
as $$
declare
    late xid8[];
begin
    if earlier.tick_floor <> later.tick_floor then
        return; -- between two lives of the log there is nothing: see _rebase_ticks
    end if;
    late := pgque._late(earlier, later);
    return query execute pgque._window_sql(log, cardinality(late) > 0)
        using greatest(earlier.tick_seq_before, place),
            least(later.tick_seq_after, upto),
            pg_snapshot_xmax(earlier.tick_snapshot),
            later.tick_snapshot,
            late,
            owner,
            earlier.tick_floor,
            coalesce(place, -1),
            max_return,
            coalesce(upto, 9223372036854775807);
end
$$;
comment on function pgque._events(text, int, pgque.tick, pgque.tick, bigint, bigint, int) is
    'The events between two ticks for one owner, after a place and up to another, by ev_id.';

-- Batches by id

create or replace function pgque._find_batch(batch_id bigint, lock boolean)
returns pgque.cursor
language plpgsql volatile
as $$
declare
    holder int;
    c pgque.cursor;
begin
    select cur_sub into holder
    from pgque.cursor
    where cur_batch = batch_id
    limit 1;
    if holder is not null and lock then
        c := pgque._lock_position(holder);
    elsif holder is not null then
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
