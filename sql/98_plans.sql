-- Planner settings of the functions that sessions call.
--
-- Invariant: everything that runs per message, batch or tick uses an index, whatever the tables held when the query was
-- planned. An empty log invites a sequential scan, and the plan is kept when the log holds a million rows. Sorting a whole
-- window, or a hash join, would undo the reading in pieces. A forbidden scan costs so much on paper that the query would be
-- compiled (jit), which takes a hundred times as long as the query. Sends read one row of pgque.queue and have no settings,
-- because each setting costs a microsecond or more per call. receive inherits the settings of the functions that it calls.
--
-- row_security = off turns hidden rows into an error (42501). Otherwise a role bound by row security would read fewer rows,
-- which looks like an empty window, a lost tick or a log that every consumer has read.

do $$
declare
    function regprocedure;
    setting text;
begin
    for function in
        select p.oid
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pgque'::regnamespace
            and case
                when p.prosecdef then p.proname not in ('_insert_event', '_append_batch', '_open_batch', '_share')
                else p.proname in ('receive', 'receive_merged', 'receive_coop', 'receive_coop_merged')
            end
        order by p.oid
    loop
        foreach setting in array array[
            'enable_seqscan = off',
            'enable_bitmapscan = off',
            'enable_sort = off',
            'enable_hashjoin = off',
            'enable_mergejoin = off',
            'jit = off',
            'plan_cache_mode = force_generic_plan',
            'row_security = off'
        ] loop
            execute format('alter function %s set %s', function, setting);
        end loop;
    end loop;
    -- Nacked messages are looked up in the whole batch at once.
    foreach function in array array[
        'pgque._nack_many(bigint, bigint[], interval, text[])', 'pgque._ack_part(bigint, bigint[])'
    ]::regprocedure[] loop
        execute format('alter function %s set enable_hashjoin = on', function);
        execute format('alter function %s set enable_nestloop = off', function);
    end loop;
end
$$;
