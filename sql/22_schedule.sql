-- Periodic work: ticks, retries and rotation, and who runs them.
--
-- Invariant: any number of sessions may make each call at once. If two of them cannot work together, the second one leaves
-- the work to the first and waits no longer than a moment. The decisions need a fresh snapshot, so the calls refuse any
-- isolation level above READ COMMITTED.

create or replace function pgque.maint()
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    due text;
    done int;
    rotated int := 0;
    began timestamptz;
begin
    perform pgque._need_read_committed('maint');
    done := pgque.maint_retry_events();
    began := clock_timestamp();
    for due in
        select q.queue_name
        from pgque.queue q
        where pgque._is_past(q.queue_switch_time, q.queue_rotation_period)
        order by q.queue_switch_time
    loop
        begin
            rotated := rotated + pgque.maint_rotate_tables_step1(due);
        exception
            when others then
                raise warning 'pgque: no rotation of queue %: % (%)', due, sqlerrm, sqlstate;
        end;
        -- Truncated tables stay locked until the commit, so many queues take several calls.
        exit when rotated > 0 and pgque._is_past(began, '100 milliseconds');
    end loop;
    perform pgque._make_append();
    perform pgque._advance_sequences();
    return done + rotated + pgque.maint_rotate_ledger();
end
$$;
comment on function pgque.maint() is
    'Puts due retries back, rotates the due logs and the ledger, and returns the number of things done. Call it in a '
    'separate transaction.';

-- Tickers in a process (ticker.py)
create or replace function pgque.ticker_may_sleep()
returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- A transaction that has notified cannot be prepared, so no send notifies if prepared transactions are allowed.
    if current_setting('max_prepared_transactions') <> '0' then
        return false;
    end if;
    if pg_sequence_last_value('pgque.wake_flag') is distinct from 2 then
        perform setval('pgque.wake_flag', 2);
    end if;
    return not exists (
        select
        from pgque.queue q
        cross join lateral (
            select t.tick_waiting
            from pgque.tick t
            where t.tick_queue = q.queue_id
            order by t.tick_id desc
            limit 1
        ) last
        where not q.queue_ticker_paused
            and not q.queue_external_ticker
            and last.tick_waiting <> '{}'
    );
end
$$;
comment on function pgque.ticker_may_sleep() is
    'Raises the flag, so that the next send notifies channel pgque_ticker. Look for work once more before you sleep. '
    'Returns false if you must keep looking: an open transaction may hold events, or prepared transactions are '
    'allowed and no send notifies.';

-- Tickers in a scheduler (pg_cron)
create or replace function pgque.set_tick_period_ms(ms int)
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if ms is null or ms < 1 or ms > 1000 then
        raise exception 'tick period must be 1 to 1000 ms' using errcode = '22023';
    end if;
    update pgque.config set tick_period_ms = ms;
    return 1;
end
$$;
comment on function pgque.set_tick_period_ms(int) is
    'Sets how often ticker_loop looks for work and returns 1. Raises 22023 unless ms is between 1 and 1000.';

create or replace procedure pgque.ticker_loop()
language plpgsql
as $$
declare
    slot_began timestamptz := clock_timestamp();
    slot interval;
    period double precision;
    maintained timestamptz;
    stands_in boolean := false;
begin
    perform pgque._need_read_committed('ticker_loop');
    select make_interval(secs => slot_seconds) - make_interval(secs => tick_period_ms / 1000.0)
        into slot
    from pgque.config;
    if slot is null then
        -- A procedure that commits cannot have settings such as row_security, so hidden rows are detected here.
        raise exception 'the row of pgque.config is not visible'
            using errcode = 'insufficient_privilege',
                hint = 'Row security hides it or it is missing. pgque doctor says which, and pgque install repairs it.';
    end if;
    while not pgque._is_past(slot_began, slot) loop
        -- The lock of the leading ticker, see ticker.py: one loop or process at a time. It is not a session lock,
        -- because a cancelled loop would leave that to its session and, behind a pooler, to other clients.
        if not stands_in and not pg_try_advisory_xact_lock(1885827447, 0) then
            stands_in := pgque.ticks_are_late();
            if not stands_in then
                return;
            end if;
            raise warning 'pgque: no tick for more than 5 seconds, although backend % leads: ticking without the lead',
                pgque._advisory_holder(1885827447, 0);
        end if;
        perform pgque.ticker();
        commit;
        if maintained is null or pgque._is_past(maintained, '1 second') then
            if not stands_in and not pg_try_advisory_xact_lock(1885827447, 0) then
                return;
            end if;
            perform pgque.maint();
            commit;
            maintained := clock_timestamp();
        end if;
        if not stands_in and not pg_try_advisory_xact_lock(1885827447, 0) then
            return;
        end if;
        select tick_period_ms / 1000.0 into period from pgque.config;
        perform pg_sleep(period);
        commit;
    end loop;
end
$$;
comment on procedure pgque.ticker_loop() is
    'Ticks and does maintenance for one slot of a scheduler, and commits each time. Returns at once if another ticker '
    'leads, unless ticks are late.';

create or replace function pgque._cron_has_seconds()
returns boolean
language sql stable
as $$
    select coalesce((
        select regexp_match(e.extversion, '^([0-9]+)[.]([0-9]+)')::int[] >= '{1,5}'::int[]
        from pg_extension e
        where e.extname = 'pg_cron'
    ), false)
$$;
comment on function pgque._cron_has_seconds() is
    'Returns true if the installed pg_cron supports intervals of seconds (1.5 and later).';

create or replace function pgque.start()
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from pg_extension where extname = 'pg_cron') then
        raise notice 'pg_cron is not installed in this database: run "pgque ticker", or call pgque.ticker() and pgque.maint() yourself';
        return 0;
    end if;
    if pgque._cron_has_seconds() then
        update pgque.config set slot_seconds = 10;
        perform cron.schedule('pgque_ticker', '10 seconds', 'call pgque.ticker_loop()');
    else
        update pgque.config set slot_seconds = 60;
        perform cron.schedule('pgque_ticker', '* * * * *', 'call pgque.ticker_loop()');
    end if;
    return 1;
end
$$;
comment on function pgque.start() is
    'Schedules ticker_loop with pg_cron and returns the number of jobs, or 0 with a NOTICE if pg_cron is not '
    'installed.';

create or replace function pgque.stop()
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    job record;
    stopped int := 0;
begin
    if exists (select from pg_extension where extname = 'pg_cron') then
        for job in select jobid from cron.job where jobname = 'pgque_ticker' loop
            perform cron.unschedule(job.jobid);
            stopped := stopped + 1;
        end loop;
    end if;
    return stopped;
end
$$;
comment on function pgque.stop() is
    'Removes the jobs of start() from pg_cron and returns how many. A slot that is running still finishes.';

create or replace function pgque.status()
returns table (component text, status text, detail text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    cron_version text := (select e.extversion from pg_extension e where e.extname = 'pg_cron');
    schedule text;
    leader int;
    most constant int := 100000; -- counts at most this many rows of a table, so that the cost is bounded
    retries bigint;
    letters bigint;
begin
    status := 'ok';
    component := 'pgque';
    detail := pgque.version();
    return next;

    component := 'postgresql';
    detail := current_setting('server_version');
    return next;

    component := 'schema';
    select format('version %s', c.schema_version) into detail from pgque.config c;
    return next;

    component := 'pg_cron';
    if cron_version is null then
        status := 'absent';
        detail := 'not installed in this database';
    else
        execute 'select j.schedule from cron.job j where j.jobname = ''pgque_ticker'' and j.active' into schedule;
        status := case when schedule is null then 'stopped' else 'scheduled' end;
        detail := coalesce(format('%s: call pgque.ticker_loop()', schedule), 'pgque.start() schedules the ticker')
            || format(' (pg_cron %s)', cron_version);
    end if;
    return next;

    component := 'ticker';
    select l.pid into leader
    from pg_locks l
    where l.locktype = 'advisory'
        and l.classid = 1885827447
        and l.objid = 0
        and l.objsubid = 2
        and l.granted
        and l.database = (select d.oid from pg_database d where d.datname = current_database());
    status := case when leader is null then 'none' else 'running' end;
    detail := coalesce('backend ' || leader || ' leads', 'run "pgque ticker", or pgque.start() with pg_cron');
    return next;

    component := 'queues';
    status := 'ok';
    select count(*) into retries from (select from pgque.retry_queue limit most + 1) counted;
    select count(*) into letters from (select from pgque.dead_letter limit most + 1) counted;
    select format('%s queues, %s subscriptions, %s retries wait, %s dead letters',
        (select count(*) from pgque.queue),
        (select count(*) from pgque.subscriber),
        case when retries > most then format('more than %s', most) else retries::text end,
        case when letters > most then format('more than %s', most) else letters::text end) into detail;
    return next;
end
$$;
comment on function pgque.status() is
    'Returns the versions of pgque, PostgreSQL and the schema, and the state of the scheduler, the ticker and the '
    'queues. Counts at most 100000 retries and as many dead letters.';

create or replace function pgque.uninstall()
returns void
language plpgsql
as $$
begin
    perform pgque.stop();
    drop schema pgque cascade;
end
$$;
comment on function pgque.uninstall() is
    'Drops the schema with every queue in it. Runs with the caller''s rights, so only the owner can call it. The '
    'roles stay.';
