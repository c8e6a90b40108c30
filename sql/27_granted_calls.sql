-- Calls by a grant: what an update of pgque._call does.
--
-- Invariant: nothing is done before the caller, named by old.caller, is found to have a grant for the queue and to own the
-- consumer or the batch. Other consumers and batches look as if they did not exist. The worker functions of the global
-- roles do the work.

create or replace function pgque._answer_producer(c pgque._call)
returns pgque._call
language plpgsql
as $$
declare
    a constant text[] := c.arguments;
begin
    perform pgque._need_granted(c.caller, a[1], 'produce');
    if c.called = 'insert_event' then
        c.number := pgque._insert_event(a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    else
        c.numbers := pgque._append_batch(a[1], a[2], c.texts, a[3]);
    end if;
    return c;
end
$$;
comment on function pgque._answer_producer(pgque._call) is 'Sends for a caller that may produce.';

create or replace function pgque._answer_consumer(c pgque._call)
returns pgque._call
language plpgsql
as $$
declare
    a constant text[] := c.arguments;
begin
    if not pgque._has_own_consumer(c.caller, a[1], a[2]) then
        if c.called in ('receive', 'receive_merged', 'seek') then
            perform pgque._raise_not_subscribed(a[1], a[2]);
        end if;
        c.number := 0;
    elsif c.called = 'receive' then
        c.messages := array(select m from pgque.receive(a[1], a[2], a[3]::int) m);
    elsif c.called = 'receive_merged' then
        c.messages := array(select m from pgque.receive_merged(a[1], a[2], a[3]::int) m);
    elsif c.called = 'seek' then
        c.number := pgque._seek(a[1], a[2], a[3]::bigint, a[4]::timestamptz);
    elsif c.called = 'unsubscribe' then
        c.number := pgque.unregister_consumer(a[1], a[2]);
    elsif c.called = 'unsubscribe_subconsumer' then
        c.number := pgque.unregister_subconsumer(a[1], a[2], a[3], a[4]::int);
    elsif c.called = 'touch_subconsumer' then
        c.number := pgque._touch_subconsumer(a[1], a[2], a[3]);
    end if;
    return c;
end
$$;
comment on function pgque._answer_consumer(pgque._call) is
    'Answers a call for a consumer of the caller. Any other consumer looks as if it did not exist.';

create or replace function pgque._answer_subscriber(c pgque._call)
returns pgque._call
language plpgsql
as $$
declare
    a constant text[] := c.arguments;
    made boolean := pgque._make_own_consumer(c.caller, a[1], a[2]);
begin
    if c.called = 'subscribe' then
        c.number := made::int;
    elsif made or c.called = 'subscribe_subconsumer' then
        c.number := pgque.register_subconsumer(a[1], a[2], a[3], made or (c.called = 'subscribe_subconsumer' and a[4]::boolean));
    end if;
    if c.called = 'receive_coop' then
        c.messages := array(select m from pgque.receive_coop(a[1], a[2], a[3], a[4]::int, a[5]::interval) m);
    elsif c.called = 'receive_coop_merged' then
        c.messages := array(select m from pgque.receive_coop_merged(a[1], a[2], a[3], a[4]::int, a[5]::interval) m);
    end if;
    return c;
end
$$;
comment on function pgque._answer_subscriber(pgque._call) is
    'Answers a call that creates a consumer if it does not exist. The new consumer belongs to the caller.';

create or replace function pgque._answer_holder(c pgque._call)
returns pgque._call
language plpgsql
as $$
declare
    a constant text[] := c.arguments;
    id constant bigint := a[1]::bigint;
begin
    if not pgque._own_batch(c.caller, id) then
        if c.called <> 'ack' then
            perform pgque._raise_not_open(id);
        end if;
        c.number := pgque._warn_not_open(id);
    elsif c.called = 'ack' then
        c.number := pgque.finish_batch(id);
    elsif c.called = 'ack_or_fail' then
        perform pgque._ack_or_fail(id);
    elsif c.called = 'ack_part' then
        c.number := pgque._ack_part(id, a[2]::bigint[]);
    elsif c.called = 'nack' then
        c.number := pgque._nack(id, a[2]::bigint, a[3]::interval, a[4]);
    elsif c.called = 'nack_many' then
        c.number := pgque._nack_many(id, a[2]::bigint[], a[3]::interval, c.texts);
    end if;
    return c;
end
$$;
comment on function pgque._answer_holder(pgque._call) is
    'Answers a call for a batch of the caller. Any other batch looks as if it were not open.';

create or replace function pgque._answer_observer(c pgque._call)
returns pgque._call
language plpgsql
as $$
declare
    visible constant text[] := array(
        select q.queue_name
        from pgque.queue q
        where (c.arguments[1] is null or q.queue_name = c.arguments[1])
            and coalesce(pgque._granted(c.caller, q.queue_id, 'consume'), pgque._granted(c.caller, q.queue_id, 'produce')) is not null
    );
begin
    if visible = '{}' and c.arguments[1] is not null then
        perform pgque._need_granted(c.caller, c.arguments[1], 'consume'); -- raises
    elsif c.called = 'get_queue_info' then
        c.rows := (
            select jsonb_agg(to_jsonb(i) order by i.queue_name)
            from unnest(visible) as v (queue_name)
            cross join lateral pgque._queue_info(v.queue_name) i
        );
    elsif c.called = 'get_queue_wait' then
        c.rows := (
            select jsonb_agg(to_jsonb(i) order by i.queue_name)
            from unnest(visible) as v (queue_name)
            cross join lateral pgque._queue_wait(v.queue_name) i
        );
    else
        c.rows := (
            select jsonb_agg(i.info order by i.queue_name, i.consumer_name)
            from unnest(visible) as v (queue_name)
            cross join lateral (
                select t.queue_name, t.consumer_name, to_jsonb(t)
                from pgque._consumer_info(v.queue_name, null) t
                where c.called = 'get_consumer_info'
                union all
                select t.queue_name, t.consumer_name, to_jsonb(t)
                from pgque._consumer_wait(v.queue_name, null) t
                where c.called = 'get_consumer_wait'
            ) i (queue_name, consumer_name, info)
            join pgque.subscriber s on s.sub_id = (pgque._subscriber(i.queue_name, i.consumer_name)).sub_id
            where (c.arguments[2] is null or i.consumer_name = c.arguments[2])
                and pgque._is_own(c.caller, s)
        );
        if c.rows is null and c.arguments[1] is not null and c.arguments[2] is not null then
            perform pgque._raise_not_subscribed(c.arguments[1], c.arguments[2]);
        end if;
    end if;
    return c;
end
$$;
comment on function pgque._answer_observer(pgque._call) is
    'Answers a call of monitoring, about queues for which the caller has any grant and about the caller''s own '
    'consumers.';

create or replace function pgque._answer()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgque._call := old;
begin
    if tg_relid <> 'pgque._call'::regclass then
        raise exception 'only an update of pgque._call is a call' using errcode = 'insufficient_privilege';
    end if;
    c.called := new.called;
    c.arguments := new.arguments;
    c.texts := new.texts;
    case
        when c.called in ('insert_event', 'send_batch') then
            c := pgque._answer_producer(c);
        when c.called in ('receive', 'receive_merged', 'seek', 'unsubscribe', 'unsubscribe_subconsumer', 'touch_subconsumer') then
            c := pgque._answer_consumer(c);
        when c.called in ('subscribe', 'subscribe_subconsumer', 'receive_coop', 'receive_coop_merged') then
            c := pgque._answer_subscriber(c);
        when c.called in ('ack', 'ack_or_fail', 'ack_part', 'nack', 'nack_many') then
            c := pgque._answer_holder(c);
        when c.called in ('get_queue_info', 'get_consumer_info', 'get_queue_wait', 'get_consumer_wait') then
            c := pgque._answer_observer(c);
        else
            raise exception 'no such call: %', coalesce(c.called, '<NULL>') using errcode = '22023';
    end case;
    c.called := null; -- the call was answered: see _ask
    return c;
end
$$;
comment on function pgque._answer() is
    'Does the work that an update of pgque._call asks for, within the caller''s grants. No other table may use it as '
    'a trigger.';

create or replace trigger answer
instead of update on pgque._call
for each row execute function pgque._answer();
