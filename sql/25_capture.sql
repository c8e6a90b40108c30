-- Change capture: row triggers that send each change of a table as an event.
--
-- Invariant: an event is sent in the transaction of the change and with the rights of the session that makes the change.
-- Nothing here is SECURITY DEFINER, because the expressions in a trigger's arguments were written by the owner of the
-- table, not by the owner of pgque. Only insert_event(), called at the end, has more rights. So the role that changes the
-- table needs pgque_writer; for cascades of foreign keys that is the table's owner.
--
-- Every change passes through _capture(). The functions before it read the trigger's arguments and the catalog and write
-- rows as text; they change nothing.

create or replace function pgque._capture_options(arguments text[])
returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    queue constant text := arguments[array_lower(arguments, 1)];
    options jsonb := '{}';
    argument text;
    option_name text;
    fault text;
begin
    if coalesce(queue, '') = '' then
        fault := 'the first trigger argument must be the name of a queue';
    end if;
    foreach argument in array coalesce(arguments[array_lower(arguments, 1) + 1:], '{}') loop
        option_name := lower(btrim(split_part(argument, '=', 1)));
        if option_name <> all (case when strpos(argument, '=') = 0
                                    then '{skip,backup,deny}'::text[]
                                    else '{ignore,pkey,when,ev_type,ev_extra1,ev_extra2,ev_extra3,ev_extra4}'
                               end) then
            fault := 'unknown trigger argument: ' || argument;
        elsif argument ~ '=[[:space:]]*$' then
            fault := 'trigger argument without a value: ' || argument;
        elsif options ? option_name then
            fault := 'trigger argument given twice: ' || argument;
        end if;
        options := options || jsonb_build_object(option_name, substr(argument, strpos(argument, '=') + 1));
    end loop;
    if options ?& '{backup,ev_extra2}' then
        fault := 'both trigger arguments backup and ev_extra2 fill ev_extra2: keep one';
    end if;
    if fault is not null then
        raise exception '%', fault
            using errcode = '22023',
                  hint = 'Write the queue, then any of SKIP, backup, deny, ignore=a,b, pkey=a,b, '
                         'when=EXPR, ev_type=EXPR, ev_extra1=EXPR to ev_extra4=EXPR, each once.';
    end if;
    return options || jsonb_build_object('queue', queue);
end
$$;
comment on function pgque._capture_options(text[]) is
    'Returns the arguments of a capture trigger as an object: queue, and a lower-case key for each further argument. '
    'Raises 22023 for an unknown argument and for one without a value.';

create or replace function pgque._capture_table(
    table_oid oid, timing text, options jsonb,
    out columns text[], out generated text[], out ignored text[], out key_columns text[], out source text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    uncomputed constant "char"[] := case timing when 'BEFORE' then '{s,v}' else '{v}' end;
    separator constant text := '[" ]*,[" ]*';
    unknown text[];
begin
    -- A deparsed expression omits its last implicit cast, to the column's own type.
    select coalesce(array_agg(a.attname::text order by a.attnum), '{}'),
           coalesce(array_agg(a.attname::text) filter (where a.attgenerated <> ''), '{}'),
           coalesce('(select r.*, '
               || string_agg(format('(%s)::%s as %I',
                      (select pg_get_expr(d.adbin, d.adrelid)
                         from pg_attrdef as d
                        where d.adrelid = a.attrelid
                          and d.adnum = a.attnum),
                      format_type(a.atttypid, a.atttypmod), a.attname), ', ')
                      filter (where a.attgenerated = any (uncomputed))
               || ' from (select '
               || string_agg('r.' || quote_ident(a.attname), ', ')
                      filter (where a.attgenerated <> all (uncomputed))
               || ' from (select ($1).*) as r) as r) as r',
               '(select ($1).*) as r')
      into columns, generated, source
      from pg_attribute as a
     where a.attrelid = table_oid
       and a.attnum > 0
       and not a.attisdropped;

    ignored := coalesce(regexp_split_to_array(btrim(options ->> 'ignore', ' "'), separator), '{}');
    key_columns := coalesce(regexp_split_to_array(btrim(options ->> 'pkey', ' "'), separator), array(
        select a.attname::text
          from pg_index as i
         cross join unnest(i.indkey::int2[]) with ordinality as k (attnum, position)
          join pg_attribute as a
            on a.attrelid = i.indrelid
           and a.attnum = k.attnum
         where i.indrelid = table_oid
           and i.indisprimary
           and k.position <= i.indnkeyatts
         order by k.position));
    unknown := array(select n from unnest(ignored || key_columns) as n where n <> all (columns));
    if unknown <> '{}' then
        raise exception 'unknown column in trigger arguments: %', array_to_string(unknown, ', ')
            using errcode = '22023',
                  hint = format('ignore= and pkey= take columns of the table: %s',
                                array_to_string(columns, ', '));
    end if;
end
$$;
comment on function pgque._capture_table(oid, text, jsonb) is
    'Returns the parts of a table that capture needs, from the catalog and the options: its columns in order, the '
    'generated ones, the ignored ones and the key, by default the columns of the primary key in its order. Names in '
    'the options are spelled as in the catalog, with or without double quotes. Raises 22023 for an unknown name. '
    'source is a FROM item named r with the columns of the row $1. It computes the generated columns that PostgreSQL '
    'leaves empty in triggers: virtual ones and, before a change, stored ones.';

create or replace function pgque._capture_values(captured record, columns text[], source text)
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    column_values text[];
begin
    -- format() writes a value the same as its type's output function. A cast to text does not for boolean, inet or
    -- char(n). "is distinct from null" is true for a composite value whose fields are all null.
    execute (
        select format('select array[%s]::text[] from %s',
                   string_agg(format('case when r.%1$I is distinct from null '
                                     'then pg_catalog.format(''%%s'', r.%1$I) end', c.name),
                              ', ' order by c.position),
                   source)
          from unnest(columns) with ordinality as c (name, position)
    ) into column_values using captured;
    return column_values;
end
$$;
comment on function pgque._capture_values(record, text[], text) is
    'Returns the values of the given columns of a row, as the output functions of their types write them.';

create or replace function pgque._capture_urlencode(value text)
returns text
language plpgsql immutable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    if value collate "C" !~ '[^A-Za-z0-9._~-]' then
        return value;
    end if;
    return (
        select string_agg(run[1] || regexp_replace(
                   upper(encode(convert_to(run[2], 'UTF8'), 'hex')), '(..)', E'%\\1', 'g'),
                   '' order by position)
          from regexp_matches(value collate "C", '([A-Za-z0-9._~-]*)([^A-Za-z0-9._~-]*)', 'g')
               with ordinality as runs (run, position)
    );
end
$$;
comment on function pgque._capture_urlencode(text) is
    'Percent-encodes the UTF-8 bytes of everything except letters, digits and ._~- (RFC 3986). A space is %20.';

create or replace function pgque._capture_row(
    function_name text, captured record, columns text[], source text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    row_text text;
begin
    if function_name = 'jsontriga' then
        execute (
            select format('select row_to_json(r.*)::text from (select %s from %s) as r',
                       string_agg('r.' || quote_ident(c.name), ', ' order by c.position), source)
              from unnest(columns) with ordinality as c (name, position)
        ) into row_text using captured;
        return row_text;
    end if;
    return (
        select case function_name
               when 'logutriga' then
                   string_agg(pgque._capture_urlencode(c.name)
                       || coalesce('=' || pgque._capture_urlencode(c.value), ''), '&' order by c.position)
               else
                   format('(%s) values (%s)',
                       string_agg(quote_ident(c.name), ',' order by c.position),
                       string_agg(coalesce(quote_literal(c.value), 'null'), ',' order by c.position))
               end
          from unnest(columns, pgque._capture_values(captured, columns, source))
               with ordinality as c (name, value, position)
    );
end
$$;
comment on function pgque._capture_row(text, record, text[], text) is
    'Returns the given columns of a row as the trigger function of that name writes a row: a JSON object, name=value '
    'pairs (a NULL is a name without =), or the tail of an INSERT.';

create or replace function pgque._capture_statement(
    columns text[], old_values text[], new_values text[], set_columns text[], key_columns text[])
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select concat_ws(' where ',
               string_agg(format('%I=%s', c.name, coalesce(quote_literal(c.new_value), 'null')),
                          ',' order by c.position)
                   filter (where c.name = any (set_columns)),
               string_agg(format('%I%s', c.name, coalesce('=' || quote_literal(c.old_value), ' is null')),
                          ' and ' order by array_position(key_columns, c.name))
                   filter (where c.name = any (key_columns)))
      from unnest(columns, old_values, new_values)
           with ordinality as c (name, old_value, new_value, position);
$$;
comment on function pgque._capture_statement(text[], text[], text[], text[], text[]) is
    'Returns the tail of an UPDATE that sets set_columns to their new values where key_columns have their old ones. '
    'Without set_columns, returns only the condition, for a DELETE.';

create or replace function pgque._capture(
    function_name text, arguments text[], operation text, timing text, level text,
    table_oid oid, table_schema text, table_name text, old_row record, new_row record)
returns record
language plpgsql
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
set bytea_output = 'hex'
set quote_all_identifiers = off
set standard_conforming_strings = on
as $$
declare
    -- search_path stays that of the session, for the names in expressions. Hence pg_catalog below.
    options constant jsonb := pgque._capture_options(arguments);
    described record;
    captured record;
    passed_on record;
    ignored text[];
    kept text[];
    changed text[];
    old_values text[];
    new_values text[];
    fields text[];
    ev_data text;
begin
    if level <> 'ROW' or timing = 'INSTEAD OF' or (options ? 'skip' and timing <> 'BEFORE') then
        raise exception 'pgque.%() cannot be an % trigger for each % with these arguments',
                function_name, timing, level
            using errcode = '22023',
                  hint = 'Use "before" or "after" and "for each row". SKIP needs "before".';
    end if;
    select * into described from pgque._capture_table(table_oid, timing, options);
    ignored := described.ignored;
    if function_name = 'sqltriga' then
        ignored := ignored || described.generated;
        if operation <> 'INSERT' and described.key_columns = '{}' then
            raise exception 'table %.% has no primary key', table_schema, table_name
                using errcode = '22023',
                      hint = 'Name the columns that identify a row: pkey=a,b';
        end if;
    end if;
    kept := array(select c from unnest(described.columns) as c where c <> all (ignored));

    if operation = 'DELETE' then
        captured := old_row;
    else
        captured := new_row;
    end if;
    if not options ? 'skip' then
        passed_on := captured;
    end if;

    if operation = 'UPDATE' and (ignored <> '{}' or function_name = 'sqltriga') then
        old_values := pgque._capture_values(old_row, described.columns, described.source);
        new_values := pgque._capture_values(new_row, described.columns, described.source);
        changed := array(select c.name
                           from unnest(described.columns, old_values, new_values)
                                as c (name, old_value, new_value)
                          where c.old_value collate "C" is distinct from c.new_value);
        if changed <> '{}' and changed <@ ignored then
            return passed_on;
        end if;
    end if;

    fields := array[
        case function_name
            when 'jsontriga' then pg_catalog.format('{"op":"%s","table":%s,"pkey":%s}', operation,
                pg_catalog.to_json(array[table_schema, table_name]),
                pg_catalog.to_json(described.key_columns))
            when 'logutriga' then pg_catalog.left(operation, 1) || ':'
                || pg_catalog.array_to_string(described.key_columns, ',')
            else pg_catalog.left(operation, 1)
        end,
        table_schema || '.' || table_name, null, null, null];
    if options - '{queue,skip,backup,deny,ignore,pkey}'::text[] <> '{}' then
        -- A line break ends a comment in an expression.
        execute (
            select pg_catalog.format(E'select case when (%s\n) then array[%s] end from %s',
                       coalesce(options ->> 'when', 'true'),
                       pg_catalog.string_agg(coalesce('(' || (options ->> f.name) || E'\n)::text',
                           pg_catalog.quote_nullable(f.value) || '::text'), ', ' order by f.position),
                       described.source)
              from unnest('{ev_type,ev_extra1,ev_extra2,ev_extra3,ev_extra4}'::text[], fields)
                   with ordinality as f (name, value, position)
        ) into fields using captured;
        if fields is null then
            return passed_on;
        end if;
    end if;
    if options ? 'deny' then
        raise exception '% on %.% is denied', operation, table_schema, table_name
            using errcode = 'PQ014',
                  hint = 'The table has a trigger pgque.' || function_name || '() with the argument deny.';
    end if;

    if function_name <> 'sqltriga' or operation = 'INSERT' then
        ev_data := pgque._capture_row(function_name, captured, kept, described.source);
    elsif operation = 'UPDATE' then
        ev_data := pgque._capture_statement(described.columns, old_values, new_values,
            case when changed = '{}' then described.key_columns
                 else array(select c from unnest(kept) as c where c = any (changed)) end,
            described.key_columns);
    else
        old_values := pgque._capture_values(old_row, described.key_columns, described.source);
        ev_data := pgque._capture_statement(described.key_columns, old_values, '{}', '{}',
            described.key_columns);
    end if;
    if options ? 'backup' and operation <> 'INSERT' then
        fields[3] := pgque._capture_row(function_name, old_row, kept, described.source);
    end if;
    perform pgque.insert_event(options ->> 'queue',
        fields[1], ev_data, fields[2], fields[3], fields[4], fields[5]);
    return passed_on;
end
$$;
comment on function pgque._capture(text, text[], text, text, text, oid, text, text, record, record) is
    'Does the work of the three trigger functions: sends at most one event for a changed row, by '
    'pgque.insert_event(), and returns the row that the trigger returns. Raises 22023 for misuse of a trigger and '
    'PQ014 for a change that deny forbids. Values do not depend on the session''s settings (UTC is used), except that '
    'money follows lc_monetary.';

create or replace function pgque.jsontriga()
returns trigger
language plpgsql
as $$
begin
    return pgque._capture('jsontriga', tg_argv, tg_op, tg_when, tg_level, tg_relid,
                          tg_table_schema, tg_table_name, old, new);
end
$$;
comment on function pgque.jsontriga() is
'Row trigger that sends each INSERT, UPDATE and DELETE of its table as an event. Arguments:
the queue, then any of
  SKIP            in a BEFORE trigger: the row is not stored, whether or not it was sent
  backup          ev_extra2 is the old row of an UPDATE or DELETE, in the format of ev_data
  deny            raise PQ014 if an event would be sent
  ignore=a,b      leave out these columns; an UPDATE that changes no others sends nothing
  pkey=a,b        the columns that identify a row, instead of the primary key
  when=EXPR       send only if EXPR is true
  ev_type=EXPR, ev_extra1=EXPR to ev_extra4=EXPR  replace the defaults
EXPR can name the columns of the new row or, for a DELETE, of the old row. It runs with the
rights and the search_path of the role that changes the table, which needs pgque_writer, in UTC.
An UPDATE that changes no column at all is sent, so that a row can be touched to send it again.
ev_type is {"op":"INSERT|UPDATE|DELETE","table":[schema,name],"pkey":[columns]}, ev_data is the
row as a JSON object, and ev_extra1 is schema.table without quotes. For a partitioned table
they name the partition that holds the row. If an UPDATE changes the key, backup has the old one.';

create or replace function pgque.logutriga()
returns trigger
language plpgsql
as $$
begin
    return pgque._capture('logutriga', tg_argv, tg_op, tg_when, tg_level, tg_relid,
                          tg_table_schema, tg_table_name, old, new);
end
$$;
comment on function pgque.logutriga() is
    'Same as pgque.jsontriga(), but ev_type is I:, U: or D: and the key columns joined by commas. ev_data is the row '
    'URL-encoded in UTF-8, such as a=1&b=x%20y; a NULL is its column''s name without =. Values are written by the '
    'output functions of their types, the same as in COPY.';

create or replace function pgque.sqltriga()
returns trigger
language plpgsql
as $$
begin
    return pgque._capture('sqltriga', tg_argv, tg_op, tg_when, tg_level, tg_relid,
                          tg_table_schema, tg_table_name, old, new);
end
$$;
comment on function pgque.sqltriga() is
'Same as pgque.jsontriga(), but ev_type is I, U or D. ev_data is the tail of the statement that
repeats the change, after "insert into t", "update t set" or "delete from t where":
(a,b) values (''1'',null), a=''1'' where id=''2'', and id=''2''. An UPDATE sets the columns
that it changed, or the key columns if it changed none; its condition has the old key.
Generated columns are left out. backup has the INSERT of the old row. An UPDATE or DELETE of
a table without a primary key needs pkey=.';
