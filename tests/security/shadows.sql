-- An attacker's objects that shadow those that pgque uses, in the schema lair and in pg_temp.
do $do$
declare
    item record;
    body constant text := $$ begin raise warning 'ATTACKED as %', current_user; return null; end $$;
begin
    -- Every function of pg_catalog whose name precedes a parenthesis in a function of pgque.
    for item in
        select p.proname, pg_get_function_result(p.oid) as result,
            (
                select coalesce(string_agg(format_type(t, null), ', ' order by n), '')
                from unnest(p.proargtypes) with ordinality as a (t, n)
            ) as arguments
        from pg_proc p
        where p.pronamespace = 'pg_catalog'::regnamespace
            and p.prokind = 'f'
            and not p.proretset
            and exists (
                select
                from pg_proc f
                where f.pronamespace = 'pgque'::regnamespace
                    and strpos(f.prosrc, p.proname || '(') > 0
            )
    loop
        begin
            execute format('create function lair.%I(%s) returns %s language plpgsql as %L',
                item.proname, item.arguments, item.result,
                case item.result when 'void' then replace(body, 'return null;', '') else body end);
        exception
            when invalid_function_definition or feature_not_supported then null;
        end;
    end loop;
    -- Every operator on the types that pgque compares and adds.
    for item in
        select o.oprname, o.oprleft::regtype as l, o.oprright::regtype as r, o.oprresult::regtype as result,
            row_number() over () as n
        from pg_operator o
        where o.oprnamespace = 'pg_catalog'::regnamespace
            and o.oprkind = 'b'
            and o.oprleft = any (
                '{text,name,int4,int8,int2,bool,oid,xid8,timestamptz,interval,jsonb,anyarray}'::regtype[])
            and o.oprname in ('=', '<>', '<', '>', '<=', '>=', '+', '-', '||', '/', '*', '->>', '?', '~', '<@')
    loop
        begin
            execute format('create function lair.op_%s(%s, %s) returns %s language plpgsql as %L',
                item.n, item.l, item.r, item.result, body);
            execute format('create operator lair.%s (leftarg = %s, rightarg = %s, function = lair.op_%s)',
                item.oprname, item.l, item.r, item.n);
        exception
            when invalid_function_definition or feature_not_supported then null;
        end;
    end loop;
    for item in
        select t, n, a
        from unnest('{bigint,int,numeric,timestamptz}'::text[]) with ordinality as types (t, n)
        cross join unnest('{max,min,sum}'::text[]) as aggregates (a)
    loop
        execute format('create or replace function lair.step_%s(%s, %s) returns %s language plpgsql as %L',
            item.n, item.t, item.t, item.t, body);
        execute format('create aggregate lair.%s(%s) (sfunc = lair.step_%s, stype = %s)', item.a, item.t, item.n, item.t);
    end loop;
    for item in
        select unnest('{text,name,oid,xid8,jsonb,regclass,regprocedure,timestamptz,pg_snapshot}'::text[]) as t
    loop
        execute format('create domain lair.%I as pg_catalog.int4 check (value < 0)', item.t);
    end loop;
    -- Tables and views, empty.
    for item in
        select c.relname, c.relnamespace = 'pgque'::regnamespace as is_ours
        from pg_class c
        where c.relkind in ('r', 'v')
            and (
                c.relnamespace = 'pgque'::regnamespace
                or c.relname in (
                    'pg_class', 'pg_proc', 'pg_roles', 'pg_attribute', 'pg_index', 'pg_inherits', 'pg_locks',
                    'pg_database', 'pg_extension', 'pg_attrdef')
            )
    loop
        execute format('create temporary table %I (attacked int)', item.relname);
        if item.is_ours then
            execute format('create table lair.%I (attacked int)', item.relname);
        end if;
    end loop;
end
$do$
