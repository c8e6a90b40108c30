-- Grants per queue, for applications that share a database and do not trust each other.
--
-- Invariant: a role with grants for single queues is a member of pgque_user and of no other role of pgque. It may not execute
-- any worker function, so PostgreSQL itself keeps it out. Each public function that it may execute runs with its caller's
-- rights: it calls the worker if the caller may execute it, and the call by a grant otherwise. Members of the global roles
-- pay only for that check. docs/architecture.md explains how the call by a grant knows its caller.
--
-- A grant is EXECUTE on a function that does nothing, one per queue and privilege. So it is inherited, dumped and restored,
-- follows a renamed role, prevents the role from being dropped until it is revoked (DROP OWNED does that), is dropped with
-- its queue, and takes effect when it commits.

create table if not exists pgque.subscriber_role (
    sub_id int primary key references pgque.subscriber (sub_id) on delete cascade,
    role_name text not null
);
comment on table pgque.subscriber_role is
    'Subscriptions that were made with a grant for their queue alone. Only members of that role and pgque_reader use '
    'them.';

-- Grants
create or replace function pgque._grant_function(queue_id int, privilege text)
returns text
language sql immutable
as $$
    select format('pgque._event_%s_%s()', queue_id, privilege)
$$;
comment on function pgque._grant_function(int, text) is
    'Returns the function on which EXECUTE is this privilege for a queue. The function may not exist.';

create or replace function pgque._grantees(queue_id int, privilege text)
returns table (role_id oid, role_name text)
language sql stable
as $$
    select r.oid, r.rolname::text
    from pg_proc f
    cross join lateral aclexplode(f.proacl) g
    join pg_roles r on r.oid = g.grantee
    where f.oid = to_regprocedure(pgque._grant_function(queue_id, privilege))
        and g.privilege_type = 'EXECUTE'
        and g.grantee <> f.proowner
$$;
comment on function pgque._grantees(int, text) is 'Returns the roles to which this privilege for a queue was granted.';

create or replace function pgque._locked_for_grant(role text, queue text, privilege text)
returns int
language plpgsql
as $$
declare
    q pgque.queue;
begin
    if privilege is null or privilege not in ('produce', 'consume') then
        raise exception 'unknown privilege: %', coalesce(privilege, '<NULL>')
            using errcode = '22023', hint = 'Privileges: produce, consume.';
    elsif role in ('pgque_writer', 'pgque_reader', 'pgque_admin', 'pgque_user', current_user) then
        raise exception 'cannot change queue grants of role %', role
            using errcode = '22023', hint = 'Name another role: those of pgque and its owner have fixed rights.';
    elsif role is null or not exists (select from pg_roles r where r.rolname = role) then
        raise exception 'role not found: %', coalesce(role, '<NULL>') using errcode = 'undefined_object';
    end if;
    -- One change at a time, and not while the queue is dropped.
    select * into q from pgque.queue t where t.queue_id = (pgque._queue(queue)).queue_id for no key update;
    if not found then
        raise exception 'queue not found: %', queue using errcode = 'PQ001', hint = 'It has just been dropped.';
    end if;
    return q.queue_id;
end
$$;
comment on function pgque._locked_for_grant(text, text, text) is
    'Locks a queue for a change of its grants and returns its id. Raises 22023, 42704 or PQ001.';

create or replace function pgque.grant_queue(role text, queue text, privilege text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    queue_id int := pgque._locked_for_grant(role, queue, privilege);
    function text := pgque._grant_function(queue_id, privilege);
begin
    if not pg_has_role(role::name, 'pgque_user', 'member') then
        begin
            execute format('grant pgque_user to %I', role);
        exception
            when insufficient_privilege then
                raise exception 'role % is not a member of pgque_user and % may not change that', role, current_user
                    using errcode = 'insufficient_privilege',
                        hint = format('Ask an administrator to run: grant pgque_user to %I;', role);
        end;
    end if;
    if role in (select g.role_name from pgque._grantees(queue_id, privilege) g) then
        return 0;
    end if;
    if to_regprocedure(function) is null then
        execute format('create function %s returns void language sql immutable as %L', function, 'select');
        execute format('comment on function %s is %L', function,
            format('Does nothing. EXECUTE on it is the privilege %s for its queue: see grant_queue.', privilege));
        execute format('revoke all on function %s from public', function);
    end if;
    execute format('grant execute on function %s to %I', function, role);
    return 1;
end
$$;
comment on function pgque.grant_queue(text, text, text) is
    'Lets a role produce to one queue, or consume from it, and returns 1, or 0 if it already had that grant. Makes '
    'the role a member of pgque_user. Raises 22023 for an unknown privilege and 42704 if the role does not exist.';

create or replace function pgque.revoke_queue(role text, queue text, privilege text)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    queue_id int := pgque._locked_for_grant(role, queue, privilege);
begin
    if role not in (select g.role_name from pgque._grantees(queue_id, privilege) g) then
        return 0;
    end if;
    execute format('revoke execute on function %s from %I', pgque._grant_function(queue_id, privilege), role);
    return 1;
end
$$;
comment on function pgque.revoke_queue(text, text, text) is
    'Revokes a grant of grant_queue from the next call on and returns 1, or 0 if there is no such grant. Consumers '
    'that the role subscribed stay.';

create or replace function pgque.queue_grants()
returns table (queue_name text, role_name text, privilege text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select q.queue_name, grantee.role_name, p.privilege
    from pgque.queue q
    cross join unnest('{consume,produce}'::text[]) as p (privilege)
    cross join lateral pgque._grantees(q.queue_id, p.privilege) grantee
    order by q.queue_name, grantee.role_name, p.privilege;
end
$$;
comment on function pgque.queue_grants() is 'Returns every grant for a single queue.';

-- Rights of a caller
create or replace function pgque._granted(caller text, queue_id int, privilege text)
returns text
language sql stable
as $$
    select g.role_name
    from pgque._grantees(queue_id, privilege) g
    where pg_has_role(caller::name, g.role_id, 'usage')
    order by g.role_name <> caller, g.role_name
    limit 1
$$;
comment on function pgque._granted(text, int, text) is
    'Returns the role through which a caller has this privilege for a queue, or NULL if it does not have it.';

create or replace function pgque._need_granted(caller text, queue text, privilege text)
returns text
language plpgsql
as $$
declare
    id int := (select q.queue_id from pgque.queue q where q.queue_name = queue);
    granted text := pgque._granted(caller, id, privilege);
begin
    if granted is null and pgque._granted(caller, id, case privilege when 'produce' then 'consume' else 'produce' end) is not null then
        raise exception 'no grant to % on queue %', privilege, queue
            using errcode = 'insufficient_privilege',
                hint = format('Ask an administrator to run: select pgque.grant_queue(%L, %L, %L);',
                    caller, queue, privilege);
    elsif granted is null then
        -- The error is the same whether the queue exists or not.
        raise exception 'queue not found: %', coalesce(queue, '<NULL>')
            using errcode = 'PQ001', hint = format('It does not exist, or %s has no grant for it.', caller);
    end if;
    return granted;
end
$$;
comment on function pgque._need_granted(text, text, text) is
    'Returns the role through which a caller has this privilege for a queue. Otherwise raises 42501 if the caller has '
    'the other privilege, and PQ001, the same as for a missing queue, if it has none.';

create or replace function pgque._is_own(caller text, s pgque.subscriber)
returns boolean
language sql stable
as $$
    select exists (
        select
        from pgque.subscriber_role o
        join pg_roles r on r.rolname = o.role_name
        where o.sub_id = coalesce(s.sub_group, s.sub_id)
            and pg_has_role(caller::name, r.oid, 'usage')
    )
$$;
comment on function pgque._is_own(text, pgque.subscriber) is
    'Returns true if a subscription, or its group, was made by a role that the caller belongs to.';

create or replace function pgque._own_batch(caller text, batch_id bigint)
returns boolean
language plpgsql
as $$
declare
    s pgque.subscriber;
begin
    select * into s from pgque.subscriber t where t.sub_id = pgque._batch_holder(batch_id);
    return found and pgque._is_own(caller, s) and pgque._granted(caller, s.sub_queue, 'consume') is not null;
end
$$;
comment on function pgque._own_batch(text, bigint) is
    'Returns true if a batch was given to a consumer of the caller, on a queue that the caller may consume from.';

create or replace function pgque._has_own_consumer(caller text, queue text, consumer text)
returns boolean
language plpgsql
as $$
begin
    perform pgque._need_granted(caller, queue, 'consume');
    return exists (
        select
        from pgque.subscriber t
        join pgque.queue q on q.queue_id = t.sub_queue
        join pgque.consumer n on n.co_id = t.sub_consumer
        where q.queue_name = queue
            and n.co_name = consumer
            and pgque._is_own(caller, t)
    );
end
$$;
comment on function pgque._has_own_consumer(text, text, text) is
    'Returns true if a consumer exists and belongs to the caller. Raises PQ001 or 42501 if the caller may not consume '
    'from the queue.';

create or replace function pgque._make_own_consumer(caller text, queue text, consumer text)
returns boolean
language plpgsql
as $$
declare
    granted text := pgque._need_granted(caller, queue, 'consume');
begin
    if pgque._has_own_consumer(caller, queue, consumer) then
        return false;
    elsif pgque.register_consumer(queue, consumer) = 1 then
        insert into pgque.subscriber_role (sub_id, role_name)
        values ((pgque._subscriber(queue, consumer)).sub_id, granted);
        return true;
    elsif pgque._has_own_consumer(caller, queue, consumer) then
        return false; -- another session of the same role was faster
    end if;
    raise exception 'consumer % on queue % belongs to another role', consumer, queue
        using errcode = 'insufficient_privilege', hint = 'Choose another name for the consumer.';
end
$$;
comment on function pgque._make_own_consumer(text, text, text) is
    'Subscribes a consumer for the role through which the caller may consume. Returns true, or false if the consumer '
    'already belongs to the caller. Raises 42501 if it belongs to another role.';
