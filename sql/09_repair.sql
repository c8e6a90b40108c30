-- Repair: sequences behind their tables, and dumps that lack rows which were truncated after their snapshot.
--
-- Invariant: no id is handed out twice. Sequences are not transactional and are easily left behind: logical replication
-- does not copy them, and a dump may exclude them. They are compared with the tables after every restore and by maint();
-- each tick compares the sequence of its log with the newest tick.
--
-- TRUNCATE ignores snapshots. A dump whose snapshot is older than a rotation contains neither the truncated rows nor their
-- copies. Rotation therefore waits while a pg_dump runs in the database (_is_being_dumped). For dumps that it cannot
-- recognise, each log has a sequence that repeats queue_history_tick: a dump reads its value after taking the snapshot,
-- so the difference shows what was truncated in between.

create or replace function pgque._restored_age()
returns int
language sql volatile
as $$
    select age(i.xmin) from pg_index i where i.indexrelid = 'pgque.tick_pkey'::regclass
$$;
comment on function pgque._restored_age() is
    'Returns an age in transactions. After a restore, rows of at least this age were restored; events sent since are '
    'younger.';

-- Sequences
create or replace function pgque._advance_sequences(restored boolean default false)
returns int
language plpgsql
as $$
declare
    s record;
    given bigint;
    advanced int := 0;
begin
    for s in
        select behind.name, behind.used
        from (
            -- Some of these rows outlive the object that they belong to. A new object must not get its id.
            values
                ('pgque.batch_id_seq', (select max(c.cur_batch) from pgque.cursor c)),
                ('pgque.queue_queue_id_seq', greatest(
                    (select max(q.queue_id) from pgque.queue q), (select max(t.tick_queue) from pgque.tick t))),
                ('pgque.consumer_co_id_seq', (select max(n.co_id) from pgque.consumer n)),
                ('pgque.subscriber_sub_id_seq', greatest(
                    (select max(t.sub_id) from pgque.subscriber t), (select max(c.cur_sub) from pgque.cursor c),
                    (select max(r.ev_owner) from pgque.retry_queue r))),
                ('pgque.dead_letter_dl_id_seq', (select max(d.dl_id) from pgque.dead_letter d))
        ) behind (name, used)
        where behind.used > pgque._sequence_value(behind.name)
            or (restored and behind.name = 'pgque.batch_id_seq' and pgque._sequence_value(behind.name) = 0
                and exists (select from pgque.cursor c where c.cur_seq > 1))
    loop
        perform pg_advisory_xact_lock(1885827448, 2); -- a second setval could undo the first
        given := pgque._sequence_value(s.name);
        continue when given > 0 and given >= s.used;
        if s.name = 'pgque.batch_id_seq' then
            -- A consumer may hold an id that no row contains any more. Each move hands out at most one id.
            s.used := 1000000 + greatest(s.used, (
                select sum(newest.cur_seq)
                from (select max(c.cur_seq) as cur_seq from pgque.cursor c group by c.cur_sub) newest));
        end if;
        raise warning 'pgque: % was at %, but greater ids were used: it continues at %', s.name, given, s.used + 1;
        perform setval(s.name, s.used);
        advanced := advanced + 1;
    end loop;
    return advanced;
end
$$;
comment on function pgque._advance_sequences(boolean) is
    'Advances the sequences of batches, queues, consumers, subscriptions and dead letters that are behind their '
    'tables, and returns how many. With restored, an unused sequence of batches is behind too.';

create or replace function pgque._advance_event_ids(q pgque.queue, last pgque.tick, restored boolean)
returns boolean
language plpgsql
as $$
declare
    given bigint := pgque._sequence_value(q.queue_event_seq);
    used bigint;
    renumbered bigint;
begin
    execute format('select max(ev_id) from %s', q.queue_data_pfx) into used;
    used := greatest(used, last.tick_seq_after, q.queue_floor);
    if given >= used then
        return false;
    elsif not pgque._lock_briefly(q.queue_data_pfx, 'access exclusive') then
        raise exception 'sequence % is behind the log and cannot be advanced while the log is in use', q.queue_event_seq
            using errcode = 'lock_not_available', hint = 'The next ticker call tries again.';
    end if;
    -- All transactions that took used ids have ended by now.
    given := pgque._sequence_value(q.queue_event_seq);
    execute format('select max(ev_id) from %s', q.queue_data_pfx) into used;
    used := greatest(used, last.tick_seq_after, q.queue_floor);
    if given >= used then
        return false;
    end if;
    perform setval(q.queue_event_seq, used);
    -- Events that took used ids get new ones. These are the events that the newest tick does not see. After a restore
    -- that tick may be from another cluster, so these are the events whose row was written by their own transaction.
    execute format(
        'with again as (
            select e.tableoid, e.ctid as place, row_number() over (order by e.ev_txid, e.ev_id) as n
            from %1$s e
            where e.ev_owner is null
                and e.ev_id <= $1
                and case
                    when $4 then
                        age(e.xmin) < pgque._restored_age()
                        and e.ev_txid < pg_snapshot_xmax(pg_current_snapshot())
                        and age(e.ev_txid::xid) - age(e.xmin) between 0 and 100 -- savepoints have their own ids
                    else not pg_visible_in_snapshot(e.ev_txid, $3)
                end
        )
        update %1$s e set ev_id = $2 + again.n
        from again
        where e.tableoid = again.tableoid and e.ctid = again.place', q.queue_data_pfx)
        using given, used, last.tick_snapshot, restored;
    get diagnostics renumbered = row_count;
    -- A window must not hold more events than ids were taken in it: see _span.
    perform setval(q.queue_event_seq, used + greatest(renumbered, given, 1));
    raise warning 'pgque: the sequence of queue % was at %, but ids up to % were used: % events get greater ids',
        q.queue_name, given, used, renumbered;
    return true;
end
$$;
comment on function pgque._advance_event_ids(pgque.queue, pgque.tick, boolean) is
    'Advances the sequence of a log that is behind the log or its newest tick, renumbers events that took used ids, '
    'and returns whether it did. Raises 55P03 while the log is in use. The caller must hold the lock of the queue''s '
    'ticker.';

-- Dumps
create or replace function pgque._is_being_dumped()
returns boolean
language plpgsql
as $$
begin
    perform pg_stat_clear_snapshot();
    return exists (
        select
        from pg_stat_activity a
        where a.datname = current_database()
            and a.application_name = 'pg_dump'
            and a.backend_xmin is not null
    );
end
$$;
comment on function pgque._is_being_dumped() is
    'Returns true if a pg_dump has taken its snapshot in this database: its dump would lack the rows that are '
    'truncated now.';

do $$
begin
    perform pgque._make_history_sequence(q.queue_id, q.queue_history_tick)
    from pgque.queue q
    where to_regclass(pgque._history_sequence(q.queue_id)) is null;
end
$$;

create or replace function pgque._replace_config()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    new.schema_version := greatest(new.schema_version, (select max(g.schema_version) from pgque.config g));
    delete from pgque.config;
    return new;
end
$$;
comment on function pgque._replace_config() is
    'Lets data be restored into an installed schema: the restored row of config replaces the existing one.';

create or replace trigger replaced_by_a_restore
before insert on pgque.config
for each row execute function pgque._replace_config();

create or replace function pgque._merge_ledger()
returns void
language plpgsql
as $$
begin
    -- After this, the current child holds the newest rows, whichever child that is.
    if pgque._ledger_child() = 0 then
        insert into pgque.tick_0 select * from pgque.tick_1 on conflict do nothing;
        insert into pgque.cursor_0 select * from pgque.cursor_1 on conflict do nothing;
    else
        insert into pgque.tick_1 select * from pgque.tick_0 on conflict do nothing;
        insert into pgque.cursor_1 select * from pgque.cursor_0 on conflict do nothing;
    end if;
end
$$;
comment on function pgque._merge_ledger() is
    'Copies all rows of the ledger to its current child. For a restore that left ledger_child behind.';

create or replace function pgque._insert_blind_tick(q pgque.queue, tick_id bigint)
returns void
language plpgsql
as $$
declare
    t pgque.tick;
begin
    t.tick_queue := q.queue_id;
    t.tick_id := tick_id;
    select k.tick_time, k.tick_floor
    into t.tick_time, t.tick_floor
    from pgque.tick k
    where k.tick_queue = q.queue_id
        and k.tick_id > _insert_blind_tick.tick_id
    order by k.tick_id
    limit 1;
    t.tick_time := coalesce(t.tick_time, clock_timestamp());
    t.tick_floor := coalesce(t.tick_floor, q.queue_floor);
    t.tick_snapshot := '3:3:';
    t.tick_event_seq := 0;
    t.tick_seq_before := 0;
    t.tick_seq_after := 0;
    t.tick_waiting := '{}';
    perform pgque._insert_tick(t);
end
$$;
comment on function pgque._insert_blind_tick(pgque.queue, bigint) is
    'Inserts a tick that has seen nothing for a tick that was lost, so that its consumers receive everything again.';

create or replace function pgque._replace_lost_ticks(q pgque.queue)
returns void
language plpgsql
as $$
declare
    lost bigint;
begin
    if not exists (select from pgque.tick t where t.tick_queue = q.queue_id) then
        lost := coalesce((
            select min((pgque._position(s.sub_id)).cur_tick) from pgque.subscriber s where s.sub_queue = q.queue_id
        ), 1);
        perform pgque._insert_blind_tick(q, lost);
    end if;
    select min((pgque._position(s.sub_id)).cur_tick) into lost from pgque.subscriber s where s.sub_queue = q.queue_id;
    if lost < (select min(t.tick_id) from pgque.tick t where t.tick_queue = q.queue_id) then
        perform pgque._insert_blind_tick(q, lost);
    end if;
end
$$;
comment on function pgque._replace_lost_ticks(pgque.queue) is
    'Inserts a tick that has seen nothing if all ticks at or before some position were lost.';

create or replace function pgque._tick_is_lost(q pgque.queue, tick_id bigint)
returns boolean
language sql volatile
as $$
    select tick_id is not null and not exists (
        select from pgque.tick t where t.tick_queue = q.queue_id and t.tick_id = _tick_is_lost.tick_id)
$$;
comment on function pgque._tick_is_lost(pgque.queue, bigint) is
    'Returns true if a position names a tick that does not exist.';

create or replace function pgque._replace_lost_positions(q pgque.queue)
returns void
language plpgsql
as $$
declare
    s pgque.subscriber;
    c pgque.cursor;
    g pgque.cursor;
    start bigint;
begin
    -- Members first, because a piece that one of them held returns to the group.
    for s in select * from pgque.subscriber t where t.sub_queue = q.queue_id order by t.sub_group nulls last, t.sub_id loop
        c := pgque._position(s.sub_id);
        continue when c.cur_sub is not null
            and not pgque._tick_is_lost(q, c.cur_tick)
            and not pgque._tick_is_lost(q, c.cur_next_tick);
        start := coalesce(
            (select max(t.tick_id) from pgque.tick t where t.tick_queue = q.queue_id and t.tick_id <= c.cur_tick),
            (select min(t.tick_id) from pgque.tick t where t.tick_queue = q.queue_id));
        if s.sub_group is not null then
            g := pgque._position(s.sub_group);
            if g.cur_sub is not null and g.cur_tick >= start then
                g.cur_tick := start;
                g.cur_next_tick := null;
                g.cur_place := null;
                perform pgque._move(g);
            end if;
        end if;
        c.cur_seq := coalesce(c.cur_seq, 0);
        c.cur_sub := s.sub_id;
        c.cur_tick := case when s.sub_group is null then start end;
        c.cur_next_tick := null;
        c.cur_place := null;
        c.cur_end := null;
        c.cur_batch := null;
        c.cur_upto := null;
        perform pgque._move(c);
        raise warning 'pgque: the position of subscription % on queue % was not in the dump; % starts again at tick %',
            s.sub_id, q.queue_name, case when s.sub_group is null then 'it' else 'its group' end, start;
        insert into pgque.restore_report (queue_name, consumer_name, detail)
        select q.queue_name, n.co_name, format('its position was not in the dump: events since tick %s are delivered again', start)
        from pgque.consumer n
        where n.co_id = s.sub_consumer;
    end loop;
end
$$;
comment on function pgque._replace_lost_positions(pgque.queue) is
    'Moves each subscriber that has lost its position, or the tick of its position, to the newest earlier tick that '
    'still exists. Events may be delivered again; none is skipped.';

create or replace function pgque._report_lost_events(q pgque.queue)
returns void
language plpgsql
as $$
declare
    history bigint := pgque._sequence_value(pgque._history_sequence(q.queue_id));
    s record;
    t pgque.tick;
    bound bigint;
    kept bigint;
begin
    if history <= q.queue_history_tick then
        return;
    end if;
    bound := coalesce(
        (select k.tick_seq_after from pgque.tick k where k.tick_queue = q.queue_id and k.tick_id = history),
        pgque._sequence_value(q.queue_event_seq));
    for s in
        select n.co_name, min((pgque._position(b.sub_id)).cur_tick) as stands
        from pgque.subscriber b
        join pgque.subscriber main on main.sub_id = coalesce(b.sub_group, b.sub_id)
        join pgque.consumer n on n.co_id = main.sub_consumer
        where b.sub_queue = q.queue_id
        group by n.co_name
        having min((pgque._position(b.sub_id)).cur_tick) < history
        order by n.co_name
    loop
        select * into t from pgque.tick k where k.tick_queue = q.queue_id and k.tick_id = s.stands;
        execute format('select count(distinct ev_id) from %s where ev_owner is null and ev_id > $1 and ev_id <= $2', q.queue_data_pfx)
            into kept
            using t.tick_seq_before, bound;
        raise warning 'pgque: the log of queue % was truncated while it was dumped: up to % events are missing for consumer %',
            q.queue_name, bound - t.tick_seq_before - kept, s.co_name;
        insert into pgque.restore_report (queue_name, consumer_name, lost_at_most, detail)
        values (q.queue_name, s.co_name, bound - t.tick_seq_before - kept,
            'the log was truncated while it was dumped: events that this consumer had not seen are missing');
    end loop;
    update pgque.queue
    set queue_history_tick = least(history, (pgque._last_tick(q.queue_id)).tick_id)
    where queue_id = q.queue_id;
    perform setval(pgque._history_sequence(q.queue_id), (select p.queue_history_tick from pgque.queue p where p.queue_id = q.queue_id));
end
$$;
comment on function pgque._report_lost_events(pgque.queue) is
    'Warns and reports, for each consumer, how many events the dump may lack because the log was truncated after its snapshot.';
