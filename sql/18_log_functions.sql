-- Functions of each log, so that its statements are planned once in a session and not at every call.
--
-- Invariant: they read a log through its parent, in the order of (ev_txid, ev_id), along the one index
-- that holds each row: (ev_txid, ev_id) for what was sent, (ev_owner, ev_txid, ev_id) for what was put
-- back for one owner. What was sent and what was put back are read in up to three arms each: the
-- transactions that began between the two ticks (a range of the index), the one in which the span ends
-- if it was cut (by value, for before PostgreSQL 18 a comparison of rows does not end a scan inside of a
-- transaction), and the late ones (by value, one probe each). A large window is so read in pieces
-- without sorting it, and an old transaction costs one probe. What is read together is returned by ev_id.

create or replace function pgque._span_arms(
    log text, restored boolean, columns text, late boolean, condition text, tail text, sent_span text default 's'
)
returns text
language sql immutable
as $$
    select string_agg(
        format('(%s)', replace(replace(replace(arm, '{of_owner}', of_owner), '{span}', span), '{sorting}', sorting)), ' union all ')
    from (values
        (
            'e.ev_owner is null' || case when restored then ' and e.ev_id > s.floor and e.ev_id <= s.last_id' else '' end,
            sent_span, 'e.ev_txid, e.ev_id'
        ),
        ('e.ev_owner = s.owner', 's', 'e.ev_owner, e.ev_txid, e.ev_id')
    ) source (of_owner, span, sorting)
    cross join lateral (
        select format(
            'select %s from %s e where {of_owner} '
            'and (e.ev_txid, e.ev_id) > (({span}.after).txid, ({span}.after).id) '
            'and e.ev_txid < ({span}.until).txid '
            'and (s.all_finished or pg_visible_in_snapshot(e.ev_txid, s.snapshot)) %s %s',
            columns, log, condition, tail)
        union all
        select format(
            'select %s from %s e where {of_owner} '
            'and ({span}.until).id <> -1 and ({span}.until).txid >= ({span}.after).txid '
            'and e.ev_txid = ({span}.until).txid and e.ev_id <= ({span}.until).id '
            'and e.ev_id > case when ({span}.after).txid = ({span}.until).txid then ({span}.after).id else -1 end '
            'and (s.all_finished or pg_visible_in_snapshot(e.ev_txid, s.snapshot)) %s %s',
            columns, log, condition, tail)
        union all
        select format(
            'select event.* from unnest(s.late) as late (txid) cross join lateral ('
            'select %s from %s e where {of_owner} and e.ev_txid = late.txid '
            'and (s.place is null or late.txid >= (s.place).txid) '
            'and (s.upto is null or late.txid <= (s.upto).txid) '
            'and e.ev_id > case when late.txid = (s.place).txid then (s.place).id else -1 end '
            'and e.ev_id <= case when late.txid = (s.upto).txid then (s.upto).id else s.last_id end %s %s'
            ') event',
            columns, log, condition, tail)
        where late
    ) arms (arm)
$$;
comment on function pgque._span_arms(text, boolean, text, boolean, text, text, text) is
    'The union of queries that reads a span s of a log, without or with late transactions. Where it was restored ids tell the '
    'lives of the log apart: see 15_restore.sql.';

create or replace function pgque._make_log_functions(queue_id int)
returns void
language plpgsql
as $$
declare
    log text := 'pgque.event_' || queue_id;
    restored boolean := coalesce((select q.queue_floor > -1 from pgque.queue q where q.queue_id = _make_log_functions.queue_id), false);
    functions text := 'pgque._event_' || queue_id;
    columns constant text := 'e.ev_id, e.ev_time, e.ev_txid, coalesce(e.ev_retry, 0), e.ev_type, e.ev_data, '
        'e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4';
    result constant text := 'table (ev_id bigint, ev_time timestamptz, ev_txid xid8, ev_retry int, ev_type text, ev_data text, '
        'ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)';
    message constant text := 'e.ev_id, s.batch_id, e.ev_type, e.ev_data, coalesce(e.ev_retry, 0), e.ev_time, '
        'e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4';
    keys constant text := 'e.ev_txid, e.ev_id';
    fence constant text := 'offset 0'; -- each arm is planned by itself, else one may read its whole index
    in_order constant text := 'order by {sorting} limit skip + take';
begin
    -- The log is locked before its sequence, as in drop_queue: nextval is called inside the insert.
    execute format(
        'create or replace function %1$s_append(
            child int, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text
        ) returns bigint language plpgsql as $body$
        #variable_conflict use_variable
        declare
            txid xid8 := pg_current_xact_id(); -- before nextval: see 02_log.sql
            id bigint;
        begin
            if child = 0 then
                insert into %2$s_0 (ev_id, ev_time, ev_txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
                values (nextval(''%2$s_id_seq''), clock_timestamp(), txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
                returning ev_id into id;
            elsif child = 1 then
                insert into %2$s_1 (ev_id, ev_time, ev_txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
                values (nextval(''%2$s_id_seq''), clock_timestamp(), txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
                returning ev_id into id;
            else
                insert into %2$s_2 (ev_id, ev_time, ev_txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
                values (nextval(''%2$s_id_seq''), clock_timestamp(), txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
                returning ev_id into id;
            end if;
            return id;
        end
        $body$', functions, log);
    -- The ids are taken before the insert, for they are returned; the log is locked before its sequence all the same.
    execute format(
        'create or replace function %1$s_append_batch(child int, ev_type text, payloads text[])
        returns bigint[] language plpgsql as $body$
        declare
            txid xid8 := pg_current_xact_id(); -- before nextval: see 02_log.sql
            sent_at timestamptz := clock_timestamp();
            ids bigint[];
        begin
            perform from only %2$s limit 0;
            ids := array(select nextval(''%2$s_id_seq'') from generate_series(1, cardinality(payloads)));
            if child = 0 then
                insert into %2$s_0 (ev_id, ev_time, ev_txid, ev_type, ev_data)
                select id, sent_at, txid, _event_%3$s_append_batch.ev_type, payload from unnest(ids, payloads) as sent (id, payload);
            elsif child = 1 then
                insert into %2$s_1 (ev_id, ev_time, ev_txid, ev_type, ev_data)
                select id, sent_at, txid, _event_%3$s_append_batch.ev_type, payload from unnest(ids, payloads) as sent (id, payload);
            else
                insert into %2$s_2 (ev_id, ev_time, ev_txid, ev_type, ev_data)
                select id, sent_at, txid, _event_%3$s_append_batch.ev_type, payload from unnest(ids, payloads) as sent (id, payload);
            end if;
            return ids;
        end
        $body$', functions, log, queue_id);
    -- Gives the locks on the log back, or handlers that take long would keep it from being rotated for
    -- ever. What the subscriber's position has not passed is not truncated, locks or not.
    execute format(
        'create or replace function %s_messages(s pgque.span) returns setof pgque.message language plpgsql as $body$
        begin
            if s.late = ''{}'' then
                return query select * from (%s) event order by 1;
            else
                return query select * from (%s) event order by 1;
            end if;
            raise exception using errcode = ''PQUND'';
        exception
            when sqlstate ''PQUND'' then null;
        end
        $body$', functions,
        pgque._span_arms(log, restored, message, false, '', fence), pgque._span_arms(log, restored, message, true, '', fence));
    execute format(
        'create or replace function %s_events(s pgque.span) returns %s language plpgsql as $body$
        #variable_conflict use_column
        begin
            if s.late = ''{}'' then
                return query select * from (%s) event order by 1;
            else
                return query select * from (%s) event order by 1;
            end if;
        end
        $body$', functions, result,
        pgque._span_arms(log, restored, columns, false, '', fence), pgque._span_arms(log, restored, columns, true, '', fence));
    -- In a log that is read as it was written ids grow with transactions, so the one that is wanted is found
    -- by bisection: there, or near there where transactions ran side by side, or else anywhere.
    execute format(
        'create or replace function %s_near(s pgque.span, wanted bigint, width int) returns pgque.span language plpgsql as $body$
        declare
            low bigint := (s.after).txid::text;
            high bigint := (s.until).txid::text;
            middle bigint;
            p pgque.place;
            first pgque.place;
            last pgque.place;
        begin
            while high - low > 1 loop
                middle := (low + high) / 2;
                select e.ev_txid, e.ev_id into p
                from %s e
                where e.ev_owner is null
                    and (e.ev_txid, e.ev_id) > (middle::text::xid8, -1)
                    and e.ev_txid <= (s.until).txid
                order by e.ev_txid, e.ev_id
                limit 1;
                if p.id <= wanted then
                    low := p.txid::text;
                else
                    high := middle;
                end if;
            end loop;
            first := (greatest(low - width, 0)::text::xid8, case when width = 0 then wanted - 1 else -1 end);
            last := ((low + width)::text::xid8, case when width = 0 then wanted else -1 end);
            if (first.txid, first.id) > ((s.after).txid, (s.after).id) then
                s.after := first;
            end if;
            if (last.txid, last.id) < ((s.until).txid, (s.until).id) then
                s.until := last;
            end if;
            return s;
        end
        $body$', functions, log);
    execute format(
        'create or replace function %1$s_event(s pgque.span, wanted bigint) returns %2$s language plpgsql as $body$
        #variable_conflict use_column
        declare
            near pgque.span;
            width int;
        begin
            if s.at_most > 2000 or s.at_most is null then
                foreach width in array ''{0,20}''::int[] loop
                    near := %1$s_near(s, wanted, width);
                    return query select * from (%3$s) event order by 4 desc limit 1;
                    if found then
                        return;
                    end if;
                end loop;
            end if;
            if s.late = ''{}'' then
                return query select * from (%4$s) event order by 4 desc limit 1;
            else
                return query select * from (%5$s) event order by 4 desc limit 1;
            end if;
        end
        $body$', functions, result,
        pgque._span_arms(log, restored, columns, true, 'and e.ev_id = wanted', fence, 'near'),
        pgque._span_arms(log, restored, columns, false, 'and e.ev_id = wanted', fence),
        pgque._span_arms(log, restored, columns, true, 'and e.ev_id = wanted', fence));
    execute format(
        'create or replace function %s_places(s pgque.span, skip int, take int) returns setof pgque.place language plpgsql as $body$
        begin
            if s.late = ''{}'' then
                return query select * from (%s) event (txid, id) order by txid, id offset skip limit take;
            else
                return query select * from (%s) event (txid, id) order by txid, id offset skip limit take;
            end if;
        end
        $body$', functions,
        pgque._span_arms(log, restored, keys, false, '', in_order), pgque._span_arms(log, restored, keys, true, '', in_order));
    execute format(
        'comment on function %1$s_append(int, text, text, text, text, text, text) is %7$L; '
        'comment on function %1$s_append_batch(int, text, text[]) is %8$L; '
        'comment on function %1$s_messages(pgque.span) is %6$L; '
        'comment on function %1$s_events(pgque.span) is %2$L; '
        'comment on function %1$s_near(pgque.span, bigint, int) is %5$L; '
        'comment on function %1$s_event(pgque.span, bigint) is %3$L; '
        'comment on function %1$s_places(pgque.span, int, int) is %4$L; '
        'revoke all on function %1$s_append_batch(int, text, text[]), %1$s_append(int, text, text, text, text, text, text), %1$s_messages(pgque.span), '
        '%1$s_events(pgque.span), %1$s_near(pgque.span, bigint, int), %1$s_event(pgque.span, bigint), '
        '%1$s_places(pgque.span, int, int) from public; '
        'grant execute on function %1$s_messages(pgque.span) to pgque_reader', -- receive has its caller's rights
        functions,
        'The events of a span of this log, by ev_id.',
        'The event of a span with that ev_id, its newest attempt.',
        'The places of the events of a span, in the order in which the log is read.',
        'The part of a span where an event with that ev_id most likely is; for a large one.',
        'The messages of a span of this log, by msg_id.',
        'Appends one event to a child of this log and returns its id.',
        'Appends one event per payload to a child of this log: the ids in the order of the payloads.');
end
$$;
comment on function pgque._make_log_functions(int) is 'Makes the functions of a queue''s log, or makes them anew.';

create or replace function pgque._drop_log_functions(queue_id int)
returns void
language plpgsql
as $$
begin
    execute format(
        'drop function %1$s_append_batch(int, text, text[]), %1$s_append(int, text, text, text, text, text, text), %1$s_messages(pgque.span), '
        '%1$s_events(pgque.span), %1$s_near(pgque.span, bigint, int), %1$s_event(pgque.span, bigint), '
        '%1$s_places(pgque.span, int, int)',
        'pgque._event_' || queue_id);
    perform pgque._drop_grant_functions(queue_id);
end
$$;
comment on function pgque._drop_log_functions(int) is 'Drops the functions of a queue''s log.';

-- Which of these functions a send calls is static too, for the oldest queues: SQL that is put together at
-- every call is most of the cost of a send.
create or replace function pgque._make_append(again boolean default false)
returns int
language plpgsql
as $$
declare
    queues int[];
    arguments constant text := 'child, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4';
begin
    if again then
        perform pg_advisory_xact_lock(1885827448, 1);
    elsif pgque._isolated_from_commits() or not pg_try_advisory_xact_lock(1885827448, 1) then
        return 0; -- somebody else is at it; maint() looks again
    end if;
    queues := array(select q.queue_id from pgque.queue q order by q.queue_id limit 200);
    if not again and exists (
        select
        from pg_proc f
        where f.oid = to_regprocedure('pgque._append(int, int, text, text, text, text, text, text)')
            and starts_with(f.prosrc, format('/* %s */', queues))
    ) then
        return 0;
    end if;
    execute 'create or replace function pgque._append(
            queue_id int, child int, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text
        ) returns bigint language plpgsql as $body$/* ' || queues::text || ' */
        declare
            id bigint;
        begin
            ' || coalesce((
                select string_agg(format('if queue_id = %s then return pgque._event_%1$s_append(%s); end if; ', n, arguments), '' order by n)
                from unnest(queues) as n
            ), '') || '
            execute ''select pgque._event_'' || queue_id || ''_append($1, $2, $3, $4, $5, $6, $7)''
                into id
                using ' || arguments || ';
            return id;
        end
        $body$';
    revoke all on function pgque._append(int, int, text, text, text, text, text, text) from public;
    comment on function pgque._append(int, int, text, text, text, text, text, text) is
        'Appends one event to the log of a queue and returns its id.';
    return 1;
end
$$;
comment on function pgque._make_append(boolean) is 'Makes pgque._append for the queues that there are, if it is not: 1, or 0.';

do $$
begin
    perform pgque._make_log_functions(q.queue_id)
    from pgque.queue q;
    perform pgque._make_append(true);
end
$$;
