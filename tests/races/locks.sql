-- See locks.py: finds the locks of a transaction that pg_locks does not show.

-- Creates the consumer names that calls use, so that calls first conflict at the subscription.
create procedure races.know_names() language sql as $$
    insert into pgque.consumer (co_name) values ('new'), ('new.a'), ('g.new'), ('i.a') on conflict do nothing;
$$;

create function races.held_rows() returns table (name text, mode text) language plpgsql as $$
declare
    rows text;
begin
    -- The weakest probe that fails reveals the strength of a row's lock.
    foreach rows in array array[
        'select ''config'' as name from pgque.config t',
        'select ''queue '' || queue_name from pgque.queue t',
        'select ''subscriber '' || (select co_name from pgque.consumer where co_id = sub_consumer) from pgque.subscriber t',
        'select ''retry '' || ev_id from pgque.retry_queue t',
        'select ''dead letter '' || ev_id from pgque.dead_letter t'
    ] loop
        return query execute format(
            'with free (name, strength) as (
                select name, 1 from (%1$s for key share of t skip locked) a (name) union all
                select name, 2 from (%1$s for share of t skip locked) a (name) union all
                select name, 3 from (%1$s for no key update of t skip locked) a (name) union all
                select name, 4 from (%1$s for update of t skip locked) a (name)
            )
            select r.name, (''{FOR UPDATE,FOR NO KEY UPDATE,FOR SHARE,FOR KEY SHARE}''::text[])[1 + count(f.name)]
            from (%1$s) r (name)
            left join free f on f.name = r.name
            group by r.name
            having count(f.name) < 4', rows);
    end loop;
end
$$;

create view races.all_keys (name, statement) as
select 'queue ' || n, format('insert into pgque.queue (queue_name, queue_data_pfx, queue_event_seq) values (%L, '''', '''')', n)
from unnest('{new}'::text[]) n
union all
select 'consumer ' || n, format('insert into pgque.consumer (co_name) values (%L)', n)
from unnest('{new,new.a,g.new,i.a}'::text[]) n
where not exists (select from pgque.consumer where co_name = n)
union all
select 'subscriber ' || co_name, format('insert into pgque.subscriber (sub_queue, sub_consumer) values (%s, %s)', queue_id, co_id)
from pgque.consumer, pgque.queue
where queue_name = 'q'
union all
select 'retry ' || e,
    format('insert into pgque.retry_queue values (''infinity'', %s, %s, now(), null, %s, 0)', sub_queue, e, sub_id)
from races.facts
join pgque.subscriber s on true
join pgque.consumer n on n.co_id = s.sub_consumer
join lateral (
    select jsonb_array_elements_text(f -> case co_name when 'c' then 'c_events' else 'a_events' end)
    union all
    select '3' where co_name = 'c'
) events (e) on co_name in ('c', 'g')
union all
select 'dead letter ' || e,
    format('insert into pgque.dead_letter (dl_queue_id, dl_consumer_id, ev_id) values (%s, %s, %s)', f -> 'queue', co_id, e)
from races.facts
join pgque.consumer n on n.co_name = 'c'
join lateral (select jsonb_array_elements_text(f -> 'c_events' || '[4, 5]')) events (e) on true;

-- A copy of the view, because the tables under the view may be locked later.
create table races.keys (name text, statement text);

create procedure races.list_keys() language sql as $$
    delete from races.keys;
    insert into races.keys select * from races.all_keys;
$$;

create function races.held_keys(own text) returns setof text language plpgsql
set lock_timeout = '2ms'
set session_replication_role = replica
as $$
declare
    key record;
begin
    for key in select * from races.keys where name <> own loop
        begin
            execute key.statement || ' on conflict do nothing';
            raise exception using errcode = 'PQUND';
        exception
            when sqlstate 'PQUND' then null;
            when lock_not_available then return next key.name;
        end;
    end loop;
end
$$;
