-- Sending.
--
-- Invariant: a send is part of the caller's transaction and writes only to the log. It takes no lock that another send
-- or a reader waits for; only drop_queue waits for it. It does not notify, except once if the ticker sleeps.
--
-- The functions for one event are variants of insert_event, in plain SQL that PostgreSQL inlines. They run with
-- their caller's rights, so that the call by a grant knows its caller (see queue_grants). PostgreSQL prefers text for an
-- untyped literal if one of the overloads takes a text, so send_batch has an overload for a text that is an array.

create or replace function pgque.send(queue_name text, payload text)
returns bigint
language sql
as $$
    select pgque.insert_event(queue_name, 'default', payload, null, null, null, null)
$$;
comment on function pgque.send(text, text) is
    'Sends the text, byte for byte, with type default and returns the event''s id.';

create or replace function pgque.send(queue_name text, payload jsonb)
returns bigint
language sql
as $$
    select pgque.insert_event(queue_name, 'default', payload::pg_catalog.text, null, null, null, null)
$$;
comment on function pgque.send(text, jsonb) is
    'Sends the value as canonical JSON text with type default and returns the event''s id.';

create or replace function pgque.send(queue_name text, payload json)
returns bigint
language sql
as $$
    select pgque.insert_event(queue_name, 'default', payload::pg_catalog.text, null, null, null, null)
$$;
comment on function pgque.send(text, json) is
    'Sends the JSON text unchanged with type default and returns the event''s id.';

create or replace function pgque.send(queue_name text, type_name text, payload text)
returns bigint
language sql
as $$
    select pgque.insert_event(queue_name, type_name, payload, null, null, null, null)
$$;
comment on function pgque.send(text, text, text) is
    'Sends the text, byte for byte, with a type and returns the event''s id.';

create or replace function pgque.send(queue_name text, type_name text, payload jsonb)
returns bigint
language sql
as $$
    select pgque.insert_event(queue_name, type_name, payload::pg_catalog.text, null, null, null, null)
$$;
comment on function pgque.send(text, text, jsonb) is
    'Sends the value as canonical JSON text with a type and returns the event''s id.';

create or replace function pgque.send(queue_name text, type_name text, payload json)
returns bigint
language sql
as $$
    select pgque.insert_event(queue_name, type_name, payload::pg_catalog.text, null, null, null, null)
$$;
comment on function pgque.send(text, text, json) is
    'Sends the JSON text unchanged with a type and returns the event''s id.';

create or replace function pgque._append_batch(queue_name text, type_name text, payloads text[])
returns bigint[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue;
    ids bigint[];
begin
    if payloads is null then
        raise exception 'payloads must not be null' using errcode = '22023';
    end if;
    if cardinality(payloads) = 0 then
        return '{}';
    end if;
    q := pgque._need_writable(queue_name);
    execute 'select pgque._event_' || q.queue_id || '_append_batch($1, $2, $3)'
        into ids
        using q.queue_cur_table, type_name, payloads;
    if pg_sequence_last_value('pgque.wake_flag') = 2 then
        perform pgque._wake_ticker();
    end if;
    return ids;
end
$$;
comment on function pgque._append_batch(text, text, text[]) is
    'Does the work of send_batch on any queue, for members of pgque_writer. Returns the ids in the order of the '
    'payloads.';

create or replace function pgque._append_batch(queue_name text, type_name text, payloads text[], headers text)
returns bigint[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    q pgque.queue;
    txid xid8;
    ids bigint[];
begin
    if headers is null or payloads is null or cardinality(payloads) = 0 then
        return pgque._append_batch(queue_name, type_name, payloads);
    end if;
    q := pgque._need_writable(queue_name);
    txid := pg_current_xact_id(); -- before nextval: see log
    -- Locks the log before its sequence, the same as the log's append_batch.
    execute format('select from only %s limit 0', q.queue_data_pfx);
    execute format('select array(select nextval(%L) from generate_series(1, $1))', q.queue_event_seq)
        into ids
        using cardinality(payloads);
    execute format(
        'insert into %s_%s (ev_id, ev_time, ev_txid, ev_type, ev_data, ev_extra2)
        select id, $1, $2, $3, payload, $4
        from unnest($5, $6) as sent (id, payload)', q.queue_data_pfx, q.queue_cur_table)
        using clock_timestamp(), txid, type_name, headers, ids, payloads;
    if pg_sequence_last_value('pgque.wake_flag') = 2 then
        perform pgque._wake_ticker();
    end if;
    return ids;
end
$$;
comment on function pgque._append_batch(text, text, text[], text) is
    'Does the work of send_batch with headers on any queue, for members of pgque_writer. Returns the ids in the order '
    'of the payloads.';

create or replace function pgque._send_batch(queue_name text, type_name text, payloads text[])
returns bigint[]
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege('pgque._append_batch(text, text, text[])'::pg_catalog.regprocedure, 'execute') then
        return pgque._append_batch(queue_name, type_name, payloads);
    end if;
    return (pgque._ask('send_batch', array[queue_name, type_name], payloads)).numbers;
end
$$;
comment on function pgque._send_batch(text, text, text[]) is
    'Serves every send_batch without headers, with the rights of its caller. Returns the ids in the order of the '
    'payloads.';

create or replace function pgque._send_batch(queue_name text, type_name text, payloads text[], headers text)
returns bigint[]
language plpgsql
as $$
begin
    if pg_catalog.has_function_privilege(
        'pgque._append_batch(text, text, text[], text)'::pg_catalog.regprocedure, 'execute')
    then
        return pgque._append_batch(queue_name, type_name, payloads, headers);
    end if;
    return (pgque._ask('send_batch', array[queue_name, type_name, headers], payloads)).numbers;
end
$$;
comment on function pgque._send_batch(text, text, text[], text) is
    'Serves send_batch with headers, with the rights of its caller. Returns the ids in the order of the payloads.';

create or replace function pgque.send_batch(queue_name text, type_name text, payloads text[])
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, type_name, payloads)
$$;
comment on function pgque.send_batch(text, text, text[]) is
    'Sends many texts of one type and returns the ids in the order of the input.';

create or replace function pgque.send_batch(queue_name text, type_name text, payloads text[], headers text)
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, type_name, payloads, headers)
$$;
comment on function pgque.send_batch(text, text, text[], text) is
    'Sends many texts of one type with the same headers, a JSON object that is stored in ev_extra2 of each event. '
    'Returns the ids in the order of the input.';

create or replace function pgque.send_batch(queue_name text, type_name text, payloads jsonb[])
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, type_name, payloads::pg_catalog.text[])
$$;
comment on function pgque.send_batch(text, text, jsonb[]) is
    'Sends many JSON values of one type and returns the ids in the order of the input.';

create or replace function pgque.send_batch(queue_name text, type_name text, payloads json[])
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, type_name, payloads::pg_catalog.text[])
$$;
comment on function pgque.send_batch(text, text, json[]) is
    'Sends many JSON texts of one type unchanged and returns the ids in the order of the input.';

create or replace function pgque._as_array(payloads text)
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return payloads::text[];
exception
    when data_exception or program_limit_exceeded then
        raise exception 'payloads must be an array, or a literal of one such as {a,b}: %', sqlerrm using errcode = '22023';
end
$$;
comment on function pgque._as_array(text) is
    'Returns the array that a text represents as a literal. Raises 22023 if it represents none.';

create or replace function pgque.send_batch(queue_name text, type_name text, payloads text)
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, type_name, pgque._as_array(payloads))
$$;
comment on function pgque.send_batch(text, text, text) is
    'Sends many texts of one type, given as an array literal such as {a,b}, and returns the ids in the order of the '
    'input. Raises 22023 for a text that is not an array literal.';

create or replace function pgque.send_batch(queue_name text, payloads text[])
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, 'default', payloads)
$$;
comment on function pgque.send_batch(text, text[]) is
    'Sends many texts with type default and returns the ids in the order of the input.';

create or replace function pgque.send_batch(queue_name text, payloads jsonb[])
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, 'default', payloads::pg_catalog.text[])
$$;
comment on function pgque.send_batch(text, jsonb[]) is
    'Sends many JSON values with type default and returns the ids in the order of the input.';

create or replace function pgque.send_batch(queue_name text, payloads json[])
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, 'default', payloads::pg_catalog.text[])
$$;
comment on function pgque.send_batch(text, json[]) is
    'Sends many JSON texts unchanged with type default and returns the ids in the order of the input.';

create or replace function pgque.send_batch(queue_name text, payloads text)
returns bigint[]
language sql
as $$
    select pgque._send_batch(queue_name, 'default', pgque._as_array(payloads))
$$;
comment on function pgque.send_batch(text, text) is
    'Sends many texts with type default, given as an array literal such as {a,b}, and returns the ids in the order of '
    'the input. Raises 22023 for a text that is not an array literal.';
