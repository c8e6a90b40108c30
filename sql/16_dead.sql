-- Dead letters: events that a consumer could not handle, until an operator replays or purges them.
--
-- Invariant: an event is a dead letter of a consumer at most once (unique constraint). A replay removes the entry and
-- sends a new event in the same transaction.

create or replace function pgque._bury(e pgque.retry_queue, reason text)
returns int
language plpgsql
as $$
begin
    insert into pgque.dead_letter (
        dl_queue_id, dl_consumer_id, dl_reason, ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data,
        ev_extra1, ev_extra2, ev_extra3, ev_extra4
    )
    select
        e.ev_queue, s.sub_consumer, left(reason, 10000), e.ev_id, e.ev_time, e.ev_txid, e.ev_retry, e.ev_type, e.ev_data,
        e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
    from pgque.subscriber s
    where s.sub_id = e.ev_owner
    on conflict (dl_queue_id, dl_consumer_id, ev_id) do nothing;
    return found::int;
end
$$;
comment on function pgque._bury(pgque.retry_queue, text) is
    'Makes an event a dead letter of its owner and returns 1, or 0 if it already is one. Keeps at most 10,000 '
    'characters of the reason.';

create or replace function pgque.event_dead(
    batch_id bigint, event_id bigint, reason text, ev_time timestamptz, ev_txid xid8, ev_retry int,
    ev_type text, ev_data text, ev_extra1 text default null, ev_extra2 text default null,
    ev_extra3 text default null, ev_extra4 text default null
)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque.cursor := pgque._need_batch(batch_id, true);
    s pgque.subscriber;
    e pgque.retry_queue;
begin
    if event_id is null then
        raise exception 'event_id must not be null' using errcode = '22023';
    end if;
    select * into s from pgque.subscriber t where t.sub_id = c.cur_sub;
    e.ev_queue := s.sub_queue;
    e.ev_owner := coalesce(s.sub_group, s.sub_id);
    e.ev_id := event_id;
    e.ev_time := event_dead.ev_time;
    e.ev_txid := event_dead.ev_txid;
    e.ev_retry := event_dead.ev_retry;
    e.ev_type := event_dead.ev_type;
    e.ev_data := event_dead.ev_data;
    e.ev_extra1 := event_dead.ev_extra1;
    e.ev_extra2 := event_dead.ev_extra2;
    e.ev_extra3 := event_dead.ev_extra3;
    e.ev_extra4 := event_dead.ev_extra4;
    return pgque._bury(e, reason);
end
$$;
comment on function pgque.event_dead(
    bigint, bigint, text, timestamptz, xid8, int, text, text, text, text, text, text
) is
    'Makes an event of an open batch a dead letter with the given fields and returns 1, or 0 if it already is one. '
    'Raises PQ003 if the batch is not open.';

create or replace function pgque.dlq_inspect(queue text, limit_count int default 100)
returns setof pgque.dead_letter
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
begin
    if limit_count is null or limit_count < 0 then
        raise exception 'limit_count must be >= 0' using errcode = '22023';
    end if;
    return query
    select *
    from pgque.dead_letter d
    where d.dl_queue_id = q.queue_id
    order by d.dl_id desc
    limit limit_count;
end
$$;
comment on function pgque.dlq_inspect(text, int) is 'Returns the newest dead letters of a queue, newest first.';

create or replace function pgque.dlq_replay(dead_letter_id bigint)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    d pgque.dead_letter;
begin
    delete from pgque.dead_letter t
    where t.dl_id = dead_letter_id
    returning * into d;
    if not found then
        raise exception 'dead letter entry not found: %', coalesce(dead_letter_id::text, '<NULL>')
            using errcode = 'PQ005', hint = 'pgque.dlq_inspect(queue) lists the entries.';
    end if;
    return pgque._insert_event(
        (select q.queue_name from pgque.queue q where q.queue_id = d.dl_queue_id),
        d.ev_type, d.ev_data, d.ev_extra1, d.ev_extra2, d.ev_extra3, d.ev_extra4
    );
end
$$;
comment on function pgque.dlq_replay(bigint) is
    'Sends a dead letter as a new event to every consumer of the queue, removes the entry and returns the new '
    'event''s id. Raises PQ005 if the entry does not exist.';

create or replace function pgque.dlq_replay_all(
    queue text, out replayed bigint, out failed bigint, out first_error text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
    entry bigint;
begin
    replayed := 0;
    failed := 0;
    for entry in
        select d.dl_id
        from pgque.dead_letter d
        where d.dl_queue_id = q.queue_id
        order by d.dl_id
    loop
        begin
            perform pgque.dlq_replay(entry);
            replayed := replayed + 1;
        exception
            when sqlstate 'PQ005' then
                null; -- another session has replayed it
            when others then
                failed := failed + 1;
                first_error := coalesce(first_error, sqlerrm);
        end;
    end loop;
end
$$;
comment on function pgque.dlq_replay_all(text) is
    'Replays every dead letter of a queue, oldest first. Returns how many were replayed, how many failed, and the '
    'first error.';

create or replace function pgque.dlq_purge(queue text, older_than interval default '30 days')
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue := pgque._queue(queue);
    purged bigint;
begin
    if older_than is null then
        raise exception 'older_than must not be null' using errcode = '22023';
    end if;
    delete from pgque.dead_letter d
    where d.dl_queue_id = q.queue_id
        and pgque._is_far(d.dl_time, older_than);
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function pgque.dlq_purge(text, interval) is
    'Removes dead letters older than older_than and returns how many.';
