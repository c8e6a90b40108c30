-- A digest of everything that a user can see: rows, tables, functions, and sequences with state.
create function races.digest() returns text language plpgsql as $$
declare
    name regclass;
    part text;
    parts text := '';
begin
    for name in
        select oid from pg_class where relnamespace = 'pgque'::regnamespace and relkind = 'r' order by oid
    loop
        execute format('select md5(string_agg(t::text, '','' order by t::text)) from only %s t', name) into part;
        parts := concat(parts, name, part);
    end loop;
    return md5(concat(
        parts,
        (select string_agg(oid::regprocedure || prosrc, ',' order by oid) from pg_proc where pronamespace = 'pgque'::regnamespace),
        pg_sequence_last_value('pgque.ledger_child'),
        pg_sequence_last_value('pgque.wake_flag')
    ));
end
$$;
