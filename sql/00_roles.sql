-- The four roles. They belong to the cluster; roles_and_grants says what they may do in this database.
--
-- Invariant: nothing is written if everything exists. If two databases of a cluster run this at once, they collide in
-- shared catalogs, and no lock of one database prevents that. The second one fails, or continues without seeing the
-- roles until its transaction ends. The installer then starts again; the script for a console does this part in
-- a separate transaction.

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
                            hint = 'Ask an administrator to run: create role pgque_writer; create role pgque_reader; '
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
                            hint = 'Ask an administrator to run: grant pgque_writer, pgque_reader to pgque_admin;';
            end;
        end if;
    end loop;
end
$$;
