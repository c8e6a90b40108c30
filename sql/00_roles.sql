-- The four roles. They belong to the cluster, and what they may do to each database: see 99_roles.sql.
--
-- Invariant: nothing is written where all is there. Two databases of a cluster in which this is done at
-- once collide in shared catalogs, which no lock of one of them prevents: who is second fails, or goes
-- on without knowing the roles until its transaction ends. The installer does all again then; the
-- script that is run by hand does this in a transaction of its own first.

do $$
declare
    role_name text;
begin
    foreach role_name in array array['pgque_writer', 'pgque_reader', 'pgque_admin', 'pgque_user'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
            begin
                execute format('create role %I nologin', role_name);
            exception
                when duplicate_object or unique_violation then
                    null; -- an installer in another database of this cluster was faster
                when insufficient_privilege then
                    raise exception 'role % is missing and % may not create roles', role_name, current_user
                        using errcode = 'insufficient_privilege',
                            hint = 'Let an administrator run: create role pgque_writer; create role pgque_reader; '
                                'create role pgque_admin; create role pgque_user; grant pgque_writer, pgque_reader to pgque_admin;';
            end;
        end if;
    end loop;
    foreach role_name in array array['pgque_writer', 'pgque_reader'] loop
        if not pg_has_role('pgque_admin', role_name, 'member') then
            begin
                execute format('grant %I to pgque_admin', role_name);
            exception
                when insufficient_privilege then
                    raise exception 'pgque_admin is not a member of % and % may not change that', role_name, current_user
                        using errcode = 'insufficient_privilege',
                            hint = 'Let an administrator run: grant pgque_writer, pgque_reader to pgque_admin;';
            end;
        end if;
    end loop;
end
$$;
