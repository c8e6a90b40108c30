-- Functions that every other file may call: looking up a queue, time, sequences, locks, and calls by a grant.
--
-- Invariant: nothing here writes to the log or to the ledger.

-- Readers have to see all rows

create or replace function pgque._turn_off_row_security(tables regclass[])
returns int
language plpgsql
as $$
declare
    secured regclass;
    turned_off int := 0;
begin
    for secured in select c.oid from pg_class c where c.oid = any (tables) and c.relrowsecurity order by c.oid loop
        raise notice 'pgque: row security was on for %, which readers have to see whole: turned off', secured;
        execute format('alter table %s disable row level security, no force row level security', secured);
        turned_off := turned_off + 1;
    end loop;
    if exists (select from pg_class c where c.oid = any (tables) and c.relrowsecurity) then
        raise exception 'row security stays on for %', tables
            using errcode = 'insufficient_privilege',
                hint = 'An event trigger turns it on again: let it leave the tables of the schema pgque alone.';
    end if;
    return turned_off;
end
$$;
comment on function pgque._turn_off_row_security(regclass[]) is
    'For tables of pgque''s own, which some providers secure when they are made: how many it was on for. 42501 if it stays on.';

create or replace function pgque._queue(queue text)
returns pgque.queue
language plpgsql stable
as $$
declare
    q pgque.queue;
begin
    select * into q
    from pgque.queue t
    where t.queue_name = _queue.queue;
    if not found then
        raise exception 'queue not found: %', coalesce(queue, '<NULL>')
            using errcode = 'PQ001', hint = 'Create it with pgque.create_queue(queue).';
    end if;
    return q;
end
$$;
comment on function pgque._queue(text) is 'The queue of that name; PQ001 where there is none.';

create or replace function pgque._isolated_from_commits()
returns boolean
language sql volatile
as $$
    select current_setting('transaction_isolation') <> 'read committed'
$$;
comment on function pgque._isolated_from_commits() is
    'True where the caller''s statements all share one snapshot, so that they miss what commits meanwhile.';

create or replace function pgque._need_read_committed(what text)
returns void
language plpgsql
as $$
begin
    if pgque._isolated_from_commits() then
        raise exception '% needs a READ COMMITTED transaction, this one is %',
            what, upper(current_setting('transaction_isolation'))
            using errcode = 'PQ013', hint = 'Call it in a transaction of its own.';
    end if;
end
$$;
comment on function pgque._need_read_committed(text) is
    'PQ013 where the transaction''s snapshot may be older than what the call decides upon.';

create or replace function pgque._from_now(span interval)
returns timestamptz
language sql volatile
as $$
    select case
        when span > interval '200000 years' then 'infinity'
        when span < interval '-6000 years' then '-infinity'
        else clock_timestamp() + span
    end
$$;
comment on function pgque._from_now(interval) is
    'The time so long after now, infinity or -infinity where PostgreSQL has no such time: an interval is never an error.';

create or replace function pgque._ago(span interval)
returns timestamptz
language sql volatile
as $$
    select case
        when span > interval '6000 years' then '-infinity'
        when span < interval '-200000 years' then 'infinity'
        else clock_timestamp() - span
    end
$$;
comment on function pgque._ago(interval) is 'The time so long before now, as _from_now.';

create or replace function pgque._is_past(at timestamptz, span interval)
returns boolean
language sql volatile
as $$
    select not (at > pgque._ago(span) and at <= clock_timestamp())
$$;
comment on function pgque._is_past(timestamptz, interval) is
    'Whether a time lies at least so long back, or in the future: then the clock was set back, and for how long it has been is '
    'not known.';

create or replace function pgque._is_far(at timestamptz, span interval)
returns boolean
language sql volatile
as $$
    select at <= pgque._ago(span) or at >= pgque._from_now(span)
$$;
comment on function pgque._is_far(timestamptz, interval) is
    'Whether a time is at least so far from now, in either direction: a clock that is set back by a moment makes nothing old.';

create or replace function pgque._sequence_value(sequence_name text)
returns bigint
language sql volatile
as $$
    select coalesce(pg_sequence_last_value(sequence_name::regclass), 0)
$$;
comment on function pgque._sequence_value(text) is 'The last value handed out, 0 where none was; not transactional.';

create or replace function pgque._check_max_return(max_return int)
returns void
language plpgsql
as $$
begin
    if max_return is null or max_return < 1 then
        raise exception 'max_return must be >= 1' using errcode = '22023';
    end if;
end
$$;
comment on function pgque._check_max_return(int) is '22023 unless max_return is at least 1.';

create or replace function pgque.version()
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select '0.1.0'
$$;
comment on function pgque.version() is 'The version of pgque that installed this schema.';

create or replace function pgque._sequence_seen(sequence_name text)
returns bigint
language plpgsql
as $$
begin
    return pgque._sequence_value(sequence_name);
exception
    when undefined_table or internal_error then
        return null; -- the queue is in a bad state, or is dropped in this moment
end
$$;
comment on function pgque._sequence_seen(text) is 'The last value handed out, 0 where none was; NULL where the sequence is missing.';

create or replace function pgque._lock_briefly(tables text, mode text)
returns boolean
language plpgsql
set lock_timeout = '20ms'
as $$
begin
    execute format('lock table %s in %s mode', tables, mode);
    return true;
exception
    when lock_not_available or deadlock_detected then
        return false;
end
$$;
comment on function pgque._lock_briefly(text, text) is
    'Locks tables if that takes no longer than a moment, because every other session waits as long: whether it did.';

create or replace function pgque._raise_moved_on(what text)
returns void
language plpgsql
as $$
begin
    raise exception 'could not serialize access: % moved on after this transaction''s snapshot', what
        using errcode = 'serialization_failure', hint = 'Retry the transaction.';
end
$$;
comment on function pgque._raise_moved_on(text) is 'Raises 40001.';

create or replace view pgque._call as
select
    current_user::text as caller,
    null::text as called,
    null::text[] as arguments,
    null::text[] as texts,
    null::bigint as number,
    null::bigint[] as numbers,
    null::pgque.message[] as messages,
    null::jsonb as rows;
comment on view pgque._call is
    'One row. Updating called, arguments and texts is a call by the current user; the other columns of the updated row are the answer.';

create or replace function pgque._ask(called_function text, call_arguments text[], call_texts text[] default null)
returns pgque._call
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    answer pgque._call;
begin
    update pgque._call
    set called = called_function,
        arguments = call_arguments,
        texts = call_texts
    returning * into answer;
    if answer.called is not null then
        raise exception 'calls by a grant for a queue need triggers, which session_replication_role = % turns off',
            current_setting('session_replication_role')
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    return answer;
end
$$;
comment on function pgque._ask(text, text[], text[]) is 'Calls a function by a grant for its queue: the answer. 55000 if no trigger gave one.';

create or replace function pgque._advisory_holder(class int, key int)
returns int
language sql volatile
as $$
    select l.pid
    from pg_locks l
    where l.locktype = 'advisory'
        and l.classid = class::oid
        and l.objid = key::oid
        and l.objsubid = 2
        and l.granted
        and l.database = (select d.oid from pg_database d where d.datname = current_database())
    limit 1
$$;
comment on function pgque._advisory_holder(int, int) is 'The backend that holds an advisory lock of two keys; NULL if none does.';
