-- See stopping.py: the stops inside functions, and work whose effect is counted.

-- The counter is a temporary sequence, so that counting needs no transaction id.
create function races.stop(place text) returns boolean language plpgsql as $$
begin
    if current_setting('races.stop_at', true) <> '' then
        if current_setting('races.stop_at') = 'none' then
            raise notice '%', place;
        elsif nextval('pg_temp.passed') = current_setting('races.stop_at')::bigint then
            raise notice '%', place;
            perform races.wait();
        end if;
    end if;
    return false;
end
$$;

create function races.wait() returns void language plpgsql
set lock_timeout = 0
as $$
begin
    perform pg_advisory_lock_shared(1885827400, 0), pg_advisory_unlock_shared(1885827400, 0);
end
$$;

create table races.sent (ev_id bigint);
create table races.done (consumer text, ev_id bigint, attempt int);

-- Records the events that exist when a race begins.
create procedure races.begin() language plpgsql as $$
begin
    truncate races.sent, races.done;
    execute format('insert into races.sent select ev_id from %s where ev_owner is null and ev_id > 2', queue_data_pfx)
    from pgque.queue
    where queue_name = 'q';
end
$$;

create function races.send(count int) returns void language sql as $$
    insert into races.sent
    select unnest(pgque.send_batch('q', array(select n::text from generate_series(1, count) n)))
$$;

-- Receives and handles a batch like a consumer: the effect and the ack share a transaction.
create function races.work(consumer text, member text, most int default 100) returns bigint language plpgsql as $$
declare
    message pgque.message;
    batch bigint;
begin
    for message in
        select * from pgque.receive_coop('q', consumer, member, most, '0') where member <> ''
        union all
        select * from pgque.receive('q', consumer, most) where member = ''
    loop
        insert into races.done values (consumer, message.msg_id, message.retry_count);
        batch := message.batch_id;
    end loop;
    if batch is not null then
        perform pgque.ack_or_fail(batch);
    end if;
    return batch;
end
$$;

create function races.finish(consumer text, batch bigint, refused bigint default null) returns void language plpgsql as $$
begin
    insert into races.done
    select consumer, e.ev_id, e.ev_retry
    from pgque.get_batch_events(batch) e
    where e.ev_id is distinct from refused;
    if refused is not null then
        perform pgque.nack(batch, row(refused, 0, '', '', 0, now(), '', '', '', '')::pgque.message, '0');
    end if;
    perform pgque.ack_or_fail(batch);
end
$$;

create procedure races.work_off() language plpgsql as $$
declare
    who record;
begin
    update pgque.retry_queue set ev_retry_after = '-infinity';
    update pgque.queue set queue_ticker_paused = false;
    perform pgque.maint_retry_events(), pgque.force_next_tick('q');
    commit;
    perform pgque.ticker('q');
    for who in select * from (values ('c', ''), ('i', ''), ('w', ''), ('g', 'b')) as t (consumer, member) loop
        begin
            while races.work(who.consumer, who.member, 1000) is not null loop
                null;
            end loop;
        exception
            when sqlstate 'PQ002' or sqlstate 'PQ007' or sqlstate 'PQ008' then
                null; -- unsubscribed, became a group, or a group became a consumer
        end;
    end loop;
end
$$;
