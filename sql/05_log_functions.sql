-- Functions of each log. A session plans their statements once instead of at every call.
--
-- Invariant: they read a log through its parent in the order of (ev_txid, ev_id), along the one index that holds each
-- row: (ev_txid, ev_id) for events, (ev_owner, ev_txid, ev_id) for redeliveries. Each kind is read in up to three arms:
-- the transactions that began between the two ticks (a range of the index); the transaction in which a cut span ends
-- (by value, because a comparison of rows does not end a scan inside a transaction before PostgreSQL 18); and the late
-- transactions (by value, one probe each). So a large window is read in pieces without a sort, and an old transaction
-- costs one probe. The rows of one read are returned by ev_id.

create or replace function pgque._span_arms(
    log text, restored boolean, columns text, kind text, condition text, tail text, sent text default null
)
returns text
language sql immutable
as $$
    select string_agg(
        format('(%s)', replace(replace(arm, '{of_owner}', of_owner), '{sorting}', sorting)), ' union all ')
    from (values
        (
            'e.ev_owner is null' || case when restored then ' and e.ev_id > s.floor and e.ev_id <= s.last_id' else '' end,
            'e.ev_txid, e.ev_id', sent
        ),
        ('e.ev_owner = s.owner', 'e.ev_owner, e.ev_txid, e.ev_id', null)
    ) source (of_owner, sorting, exactly)
    cross join lateral (
        select format(
            'select %s from %s e where {of_owner} and %s '
            'and (e.ev_txid, e.ev_id) > ((s.after).txid, (s.after).id) '
            'and (e.ev_txid, e.ev_id) <= ((s.until).txid, (s.until).id) '
            'and (s.all_finished or pg_visible_in_snapshot(e.ev_txid, s.snapshot)) %s',
            columns, log, exactly, tail)
        where exactly is not null
        union all
        select format(
            'select %s from %s e where {of_owner} '
            'and (e.ev_txid, e.ev_id) > ((s.after).txid, (s.after).id) '
            'and e.ev_txid < (s.until).txid '
            'and (s.all_finished or pg_visible_in_snapshot(e.ev_txid, s.snapshot)) %s %s',
            columns, log, condition, tail)
        where exactly is null
        union all
        select format(
            'select %s from %s e where {of_owner} '
            'and (s.until).id <> -1 and (s.until).txid >= (s.after).txid '
            'and e.ev_txid = (s.until).txid and e.ev_id <= (s.until).id '
            'and e.ev_id > case when (s.after).txid = (s.until).txid then (s.after).id else -1 end '
            'and (s.all_finished or pg_visible_in_snapshot(e.ev_txid, s.snapshot)) %s %s',
            columns, log, condition, tail)
        where kind <> 'whole' and exactly is null
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
        where kind = 'late'
    ) arms (arm)
$$;
comment on function pgque._span_arms(text, boolean, text, text, text, text, text) is
    'Returns the union of queries that reads a span s of a log. kind is whole (to the end of its window), cut '
    '(shorter) or late (with late transactions). With sent, that condition selects the events that were sent; '
    'redeliveries are read as usual. In a restored log, ids tell its lives apart: see restore.';

-- Each arm costs something even if it finds nothing, and most spans are whole windows.
create or replace function pgque._span_query(
    log text, restored boolean, columns text, condition text, tail text, finish text, sent text default null
)
returns text
language sql immutable
as $$
    select format(
        'if s.late <> ''{}'' then return query select * from (%2$s) event %1$s; '
        'elsif (s.until).id <> -1 then return query select * from (%3$s) event %1$s; '
        'else return query select * from (%4$s) event %1$s; end if;',
        finish,
        pgque._span_arms(log, restored, columns, 'late', condition, tail, sent),
        pgque._span_arms(log, restored, columns, 'cut', condition, tail, sent),
        pgque._span_arms(log, restored, columns, 'whole', condition, tail, sent))
$$;
comment on function pgque._span_query(text, boolean, text, text, text, text, text) is
    'Returns the statements that return the contents of a span s of a log, with as few arms as it needs.';

create or replace function pgque._make_log_function(queue_id int, name text, arguments text, result text, body text, promise text)
returns void
language plpgsql
as $$
declare
    signature text := format('pgque._event_%s_%s(%s)', queue_id, name, arguments);
begin
    execute format('create or replace function %s returns %s language plpgsql as %L', signature, result, body);
    execute format('comment on function %s is %L', signature, promise);
    execute format('revoke all on function %s from public', signature);
end
$$;
comment on function pgque._make_log_function(int, text, text, text, text, text) is
    'Creates or replaces one function of a queue''s log. Only the owner may execute it.';

-- Each child needs its own statement, because a table name cannot be a parameter.
create or replace function pgque._into_child(log text, columns text, selection text, tail text)
returns text
language sql
as $$
    select format(
        'if child = 0 then %s; elsif child = 1 then %s; else %s; end if;', variadic array(
            select format('insert into %s_%s (%s) %s %s', log, child, columns, selection, tail)
            from generate_series(0, 2) as child
            order by child
        ))
$$;
comment on function pgque._into_child(text, text, text, text) is
    'Returns the statements that insert into the child of a log that the variable child names.';

create or replace function pgque._make_log_functions(queue_id int)
returns void
language plpgsql
as $$
declare
    log text := 'pgque.event_' || queue_id;
    restored boolean := coalesce((select q.queue_floor > -1 from pgque.queue q where q.queue_id = _make_log_functions.queue_id), false);
    columns constant text := 'e.ev_id, e.ev_time, e.ev_txid, coalesce(e.ev_retry, 0), e.ev_type, e.ev_data, '
        'e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4';
    events constant text := 'table (ev_id bigint, ev_time timestamptz, ev_txid xid8, ev_retry int, ev_type text, ev_data text, '
        'ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)';
    message constant text := 'e.ev_id, s.batch_id, e.ev_type, e.ev_data, coalesce(e.ev_retry, 0), e.ev_time, '
        'e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4';
    keys constant text := 'e.ev_txid, e.ev_id';
    wanted constant text := 'and e.ev_id = wanted';
    at constant text := 'e.ev_id = wanted and e.ev_txid = any (near)';
    fence constant text := 'offset 0'; -- plans each arm separately; otherwise one may read its whole index
    in_order constant text := 'order by {sorting} limit skip + take';
begin
    -- The insert locks the log before its sequence, the same as drop_queue, because it calls nextval.
    perform pgque._make_log_function(
        queue_id, 'append',
        'child int, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text', 'bigint',
        format(
            '#variable_conflict use_variable
            declare
                txid xid8 := pg_current_xact_id(); -- before nextval: see log
                id bigint;
            begin
                %s
                return id;
            end',
            pgque._into_child(
                log, 'ev_id, ev_time, ev_txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4',
                format(
                    'values (nextval(''%s_id_seq''), clock_timestamp(), txid, ev_type, ev_data, '
                    'ev_extra1, ev_extra2, ev_extra3, ev_extra4)', log),
                'returning ev_id into id')),
        'Appends one event to a child of this log and returns its id.');
    -- The ids are taken before the insert, because they are returned. The empty query locks the log before its
    -- sequence.
    perform pgque._make_log_function(
        queue_id, 'append_batch', 'child int, ev_type text, payloads text[]', 'bigint[]',
        format(
            'declare
                txid xid8 := pg_current_xact_id(); -- before nextval: see log
                sent_at timestamptz := clock_timestamp();
                ids bigint[];
            begin
                perform from only %1$s limit 0;
                ids := array(select nextval(''%1$s_id_seq'') from generate_series(1, cardinality(payloads)));
                %2$s
                return ids;
            end',
            log,
            pgque._into_child(
                log, 'ev_id, ev_time, ev_txid, ev_type, ev_data',
                'select id, sent_at, txid, ev_type, payload from unnest(ids, payloads) as sent (id, payload)', '')),
        'Appends one event per payload to a child of this log and returns the ids in the order of the payloads.');
    -- The error releases the locks on the log; otherwise a slow handler would prevent its rotation. Rows that the
    -- subscriber's position has not passed are not truncated, with or without locks.
    perform pgque._make_log_function(
        queue_id, 'messages', 's pgque.span', 'setof pgque.message',
        format(
            'begin
                %s
                raise exception using errcode = ''PQUND'';
            exception
                when sqlstate ''PQUND'' then null;
            end',
            pgque._span_query(log, restored, message, '', fence, 'order by 1')),
        'Returns the messages of a span of this log, by msg_id.');
    perform pgque._make_log_function(
        queue_id, 'events', 's pgque.span', events,
        format(
            '#variable_conflict use_column
            begin
                %s
            end',
            pgque._span_query(log, restored, columns, '', fence, 'order by 1')),
        'Returns the events of a span of this log, by ev_id.');
    perform pgque._make_log_function(
        queue_id, 'places', 's pgque.span, skip int, take int', 'setof pgque.place',
        format(
            'begin
                %s
            end',
            pgque._span_query(log, restored, keys, '', in_order, '(txid, id) order by txid, id offset skip limit take')),
        'Returns the places of the events of a span, in the order in which the log is read.');
    -- In log order, ids mostly grow evenly with transaction ids. Three guesses and then bisection find the transaction
    -- that sent an event, or one near it if transactions overlapped. If the event is in neither, the function event
    -- reads the whole span.
    perform pgque._make_log_function(
        queue_id, 'near', 's pgque.span, wanted bigint', 'bigint',
        format(
            'declare
                low bigint := (s.after).txid::text;
                high bigint := (s.until).txid::text;
                low_id bigint := s.last_id - s.at_most;
                high_id bigint := s.last_id + 1;
                guesses int := 3;
                middle bigint;
                p pgque.place;
            begin
                while high - low > 10 loop
                    middle := low + (high - low) / 2; -- low + high may overflow a bigint
                    if guesses > 0 and wanted > low_id and wanted < high_id then
                        middle := low - 1 + ((high - low) * ((wanted::float8 - low_id) / (high_id - low_id)))::bigint;
                        middle := greatest(low, least(middle, high - 1));
                        guesses := guesses - 1;
                    end if;
                    select e.ev_txid, e.ev_id into p
                    from %s e
                    where e.ev_owner is null
                        and (e.ev_txid, e.ev_id) > (middle::text::xid8, -1)
                        and e.ev_txid <= (s.until).txid
                    order by e.ev_txid, e.ev_id
                    limit 1;
                    if p.id = wanted then
                        return p.txid::text;
                    elsif p.id < wanted then
                        low := p.txid::text;
                        low_id := p.id;
                    else
                        high := middle;
                        high_id := coalesce(p.id, high_id);
                    end if;
                end loop;
                return low;
            end', log),
        'Returns a transaction of a large span: it, or one of the next ten, most likely sent this event.');
    perform pgque._make_log_function(
        queue_id, 'event', 's pgque.span, wanted bigint', events,
        format(
            '#variable_conflict use_column
            declare
                txid bigint;
                near xid8[];
            begin
                if s.at_most > 2000 or s.at_most is null then
                    txid := pgque._event_%1$s_near(s, wanted);
                    for beside in 0..1 loop
                        near := array(
                            select n::text::xid8 from generate_series(greatest(txid - 20 * beside, 0), txid + 10 + 10 * beside) as n);
                        %2$s
                        if found then
                            return;
                        end if;
                    end loop;
                end if;
                %3$s
            end',
            queue_id,
            pgque._span_query(log, restored, columns, wanted, fence, 'order by 4 desc limit 1', at),
            pgque._span_query(log, restored, columns, wanted, fence, 'order by 4 desc limit 1')),
        'Returns the newest attempt of the event of a span with this ev_id.');
    -- receive runs with its caller's rights: see queue_grants.
    execute format('grant execute on function pgque._event_%s_messages(pgque.span) to pgque_reader', queue_id);
end
$$;
comment on function pgque._make_log_functions(int) is 'Creates or replaces the functions of a queue''s log.';

create or replace function pgque._drop_log_functions(queue_id int)
returns void
language plpgsql
as $$
declare
    function regprocedure;
begin
    for function in
        select f.oid
        from pg_proc f
        where f.pronamespace = 'pgque'::regnamespace
            and starts_with(f.proname, format('_event_%s_', queue_id))
    loop
        execute format('drop function %s', function);
    end loop;
end
$$;
comment on function pgque._drop_log_functions(int) is
    'Drops the functions of a queue''s log and, with them, every grant for the queue.';

-- _append selects one of these functions by static SQL for the 200 oldest queues, because dynamic SQL at every call
-- would be most of the cost of a send.
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
        return 0; -- another session is doing this; maint() checks again
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
comment on function pgque._make_append(boolean) is
    'Creates pgque._append for the existing queues unless it is up to date. Returns 1, or 0 if it changed nothing.';

do $$
begin
    perform pgque._make_log_functions(q.queue_id)
    from pgque.queue q;
    perform pgque._make_append(true);
end
$$;
