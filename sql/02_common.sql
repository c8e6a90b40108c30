-- Functions that every other file may call: looking up a queue, time, sequences, locks, and calls by a grant.
--
-- Invariant: nothing here writes to the log or to the ledger.

-- Row security

create or replace function pgque._turn_off_row_security(tables regclass[])
returns int
language plpgsql
as $$
declare
    secured regclass;
    turned_off int := 0;
begin
    for secured in select c.oid from pg_class c where c.oid = any (tables) and c.relrowsecurity order by c.oid loop
        raise notice 'pgque: turned off row security for %, because readers must see all rows', secured;
        execute format('alter table %s disable row level security, no force row level security', secured);
        turned_off := turned_off + 1;
    end loop;
    if exists (select from pg_class c where c.oid = any (tables) and c.relrowsecurity) then
        raise exception 'row security stays on for %', tables
            using errcode = 'insufficient_privilege',
                hint = 'An event trigger turns it on again. Make it skip the tables of the schema pgque.';
    end if;
    return turned_off;
end
$$;
comment on function pgque._turn_off_row_security(regclass[]) is
    'Turns off row security on pgque''s own tables, because some providers turn it on for every new table. Returns '
    'for how many it was on. Raises 42501 if it stays on.';

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
comment on function pgque._queue(text) is 'Returns the queue with this name. Raises PQ001 if it does not exist.';

create or replace function pgque._isolated_from_commits()
returns boolean
language sql volatile
as $$
    select current_setting('transaction_isolation') <> 'read committed'
$$;
comment on function pgque._isolated_from_commits() is
    'Returns true if all statements of the caller share one snapshot and so do not see later commits.';

create or replace function pgque._need_read_committed(what text)
returns void
language plpgsql
as $$
begin
    if pgque._isolated_from_commits() then
        raise exception '% needs a READ COMMITTED transaction, this one is %',
            what, upper(current_setting('transaction_isolation'))
            using errcode = 'PQ013', hint = 'Call it in a separate transaction.';
    end if;
end
$$;
comment on function pgque._need_read_committed(text) is
    'Raises PQ013 unless the transaction is READ COMMITTED, because an older snapshot would lead to wrong decisions.';

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
    'Returns the time this long after now, or infinity or -infinity if PostgreSQL cannot represent it. No interval is '
    'an error.';

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
comment on function pgque._ago(interval) is 'Returns the time this long before now, with the same limits as _from_now.';

create or replace function pgque._is_past(at timestamptz, span interval)
returns boolean
language sql volatile
as $$
    select not (at > pgque._ago(span) and at <= clock_timestamp())
$$;
comment on function pgque._is_past(timestamptz, interval) is
    'Returns true if a time is at least this long ago, or in the future. In that case the clock was set back, and the '
    'real age is unknown.';

create or replace function pgque._is_far(at timestamptz, span interval)
returns boolean
language sql volatile
as $$
    select at <= pgque._ago(span) or at >= pgque._from_now(span)
$$;
comment on function pgque._is_far(timestamptz, interval) is
    'Returns true if a time is at least this far from now in either direction. A clock that is set back a little '
    'makes nothing look old.';

create or replace function pgque._sequence_value(sequence_name text)
returns bigint
language sql volatile
as $$
    select coalesce(pg_sequence_last_value(sequence_name::regclass), 0)
$$;
comment on function pgque._sequence_value(text) is
    'Returns the last value that a sequence handed out, or 0 if none. Not transactional.';

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
comment on function pgque._check_max_return(int) is 'Raises 22023 unless max_return is at least 1.';

create or replace function pgque.version()
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select '0.1.0'
$$;
comment on function pgque.version() is 'Returns the version of pgque that installed this schema.';

create or replace function pgque._sequence_seen(sequence_name text)
returns bigint
language plpgsql
as $$
begin
    return pgque._sequence_value(sequence_name);
exception
    when undefined_table or internal_error then
        return null; -- the queue is damaged or is being dropped
end
$$;
comment on function pgque._sequence_seen(text) is
    'Returns the last value that a sequence handed out, 0 if none, or NULL if the sequence does not exist.';

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
    'Locks tables if that takes at most 20 ms, because all other sessions queue behind the request. Returns whether '
    'it did.';

create or replace function pgque._raise_moved_on(what text)
returns void
language plpgsql
as $$
begin
    raise exception 'could not serialize access: % moved on after this transaction''s snapshot', what
        using errcode = 'serialization_failure', hint = 'Retry the transaction.';
end
$$;
comment on function pgque._raise_moved_on(text) is 'Raises 40001: the caller''s snapshot is too old.';

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
    'One row. An update of called, arguments and texts is a call by the current user. The other columns of the '
    'updated row hold the answer.';

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
comment on function pgque._ask(text, text[], text[]) is
    'Calls a function by a grant for its queue and returns the answer. Raises 55000 if no trigger answered.';

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
comment on function pgque._advisory_holder(int, int) is
    'Returns the backend that holds an advisory lock with two keys, or NULL if none does.';
