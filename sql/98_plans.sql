-- How queries are planned, in one place for every function that others call.
--
-- Invariant: what runs per message, batch or tick goes through an index, whatever the tables held
-- when the query was planned: an empty log invites a sequential scan, and its plan is kept when there
-- are a million rows. Sorting a whole window or joining by hash would undo the reading in pieces. And
-- a scan that is called forbidden costs so much on paper that the query would be compiled (jit), which
-- takes a hundred times as long as it does. Sends look up one row of pgque.queue and no more: they go
-- without, for each setting costs a call a microsecond or more. What receive calls has its settings.
--
-- Whoever is bound by row security on a table of pgque gets an error (42501): without row_security = off he would read
-- fewer rows, which looks like an empty window, a lost tick or a log that all have read.

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
    -- What is nacked is looked for in the whole batch at once.
    foreach function in array array[
        'pgque._nack_many(bigint, bigint[], interval, text[])', 'pgque._ack_part(bigint, bigint[])'
    ]::regprocedure[] loop
        execute format('alter function %s set enable_hashjoin = on', function);
        execute format('alter function %s set enable_nestloop = off', function);
    end loop;
end
$$;
