-- What has to happen from time to time: ticks, retries, rotation; and who does it.
--
-- Invariant: every call here may run in any number of sessions at once. What two of them cannot do
-- together the second leaves to the first, without waiting for more than a moment. The decisions need
-- a fresh snapshot, so they are refused outside of READ COMMITTED.

-- The ledger: ticks and cursors

create or replace function pgque._copy_ledger(from_child int, to_child int)
returns void
language plpgsql
as $$
begin
    execute format(
        'insert into pgque.cursor_%s
        select c.*
        from pgque.subscriber s
        cross join lateral pgque._position(s.sub_id) newest
        join pgque.cursor_%s c on c.cur_sub = newest.cur_sub and c.cur_seq = newest.cur_seq
        on conflict do nothing', to_child, from_child);
    -- Ticks where somebody stands, the ends of each life of a log, and history, the thinner the older.
    execute format(
        'with stands as (
            select s.sub_queue, newest.cur_tick, newest.cur_next_tick
            from pgque.subscriber s
            cross join lateral pgque._position(s.sub_id) newest
        ),
        kept as (
            select sub_queue as queue_id, cur_tick as tick_id from stands
            union
            select sub_queue, cur_next_tick from stands
            union
            select t.tick_queue, unnest(array[min(t.tick_id), max(t.tick_id)])
            from pgque.tick t
            group by t.tick_queue, t.tick_floor
            union
            select t.tick_queue, max(t.tick_id)
            from pgque.tick t
            join pgque.queue q on q.queue_id = t.tick_queue and t.tick_id >= q.queue_history_tick
            cross join lateral (
                select case
                    when t.tick_time > clock_timestamp() - interval ''10 minutes'' then 1
                    when t.tick_time > clock_timestamp() - interval ''1 day'' then 60
                    else 3600
                end as seconds
            ) bucket
            group by t.tick_queue, bucket.seconds, floor(extract(epoch from t.tick_time) / bucket.seconds)
        )
        insert into pgque.tick_%s
        select t.*
        from pgque.tick_%s t
        join kept k on k.queue_id = t.tick_queue and k.tick_id = t.tick_id
        join pgque.queue q on q.queue_id = t.tick_queue
        on conflict do nothing', to_child, from_child);
end
$$;
comment on function pgque._copy_ledger(int, int) is
    'Copies what is still needed from one child of the ledger to the other. Needs both locked against writers of the first.';

create or replace function pgque.maint_rotate_ledger()
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    settings pgque.config;
    other int;
    written bigint;
begin
    perform pgque._need_read_committed('maint_rotate_ledger');
    select * into settings from pgque.config for no key update skip locked;
    if not found then
        return 0;
    end if;
    other := 1 - settings.ledger_child;
    if pg_relation_size(format('pgque.tick_%s', other)) + pg_relation_size(format('pgque.cursor_%s', other)) > 0 then
        -- Written to until the last switch, and by those who had read the setting before it.
        if not pgque._lock_exclusively(format('pgque.tick_%1$s, pgque.cursor_%1$s', other)) then
            return 0;
        end if;
        perform pgque._copy_ledger(other, settings.ledger_child);
        execute format('truncate table pgque.tick_%1$s, pgque.cursor_%1$s', other);
        update pgque.config
        set ledger_kept_bytes = pg_relation_size(format('pgque.tick_%s', settings.ledger_child))
            + pg_relation_size(format('pgque.cursor_%s', settings.ledger_child));
        return 1;
    end if;
    written := pg_relation_size(format('pgque.tick_%s', settings.ledger_child))
        + pg_relation_size(format('pgque.cursor_%s', settings.ledger_child));
    if written < settings.ledger_max_bytes + 2 * settings.ledger_kept_bytes then
        return 0;
    end if;
    update pgque.config set ledger_child = other;
    return 1;
end
$$;
comment on function pgque.maint_rotate_ledger() is
    'Gives back the space of old ticks and cursors by TRUNCATE, or begins a new child where the current one is full: 1, or 0.';

create or replace function pgque.maint()
returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    due text;
    done int;
begin
    perform pgque._need_read_committed('maint');
    done := pgque.maint_retry_events();
    for due in
        select q.queue_name
        from pgque.queue q
        where clock_timestamp() - q.queue_switch_time >= q.queue_rotation_period
        order by q.queue_id
    loop
        begin
            done := done + pgque.maint_rotate_tables_step1(due);
        exception
            when others then
                raise warning 'pgque: no rotation of queue %: % (%)', due, sqlerrm, sqlstate;
        end;
    end loop;
    return done + pgque.maint_rotate_ledger();
end
$$;
comment on function pgque.maint() is
    'Puts retries back, rotates the logs that are due and the ledger: number of things done. In a transaction of its own.';

-- Inside a scheduler

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
comment on function pgque.set_tick_period_ms(int) is 'Sets how often ticker_loop looks for something new, 1 to 1000 ms.';

create or replace procedure pgque.ticker_loop()
language plpgsql
as $$
declare
    slot_end timestamptz;
    period double precision;
    next_maint timestamptz := clock_timestamp();
begin
    select clock_timestamp() + make_interval(secs => slot_seconds) - make_interval(secs => tick_period_ms / 1000.0)
        into slot_end
    from pgque.config;
    -- The lock of the ticker that leads, see ticker.py: one loop or process at a time.
    if not pg_try_advisory_lock(1885827447, 0) then
        return;
    end if;
    while clock_timestamp() < slot_end loop
        perform pgque.ticker();
        commit;
        if clock_timestamp() >= next_maint then
            perform pgque.maint();
            commit;
            next_maint := clock_timestamp() + interval '1 second';
        end if;
        select tick_period_ms / 1000.0 into period from pgque.config;
        perform pg_sleep(period);
        commit;
    end loop;
    perform pg_advisory_unlock(1885827447, 0);
end
$$;
comment on procedure pgque.ticker_loop() is
    'Ticks and maintains for one slot of a scheduler, committing each time; returns at once where another ticker leads.';

create or replace function pgque._cron_has_seconds()
returns boolean
language sql stable
as $$
    select coalesce((
        select (string_to_array(e.extversion, '.'))[1:2]::int[] >= '{1,5}'::int[]
        from pg_extension e
        where e.extname = 'pg_cron'
    ), false)
$$;
comment on function pgque._cron_has_seconds() is 'Whether the pg_cron here knows intervals of seconds (1.5 and later).';

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
    'Schedules ticker_loop with pg_cron: number of jobs, 0 with a NOTICE where pg_cron is not installed.';

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
comment on function pgque.stop() is 'Takes the jobs of start() out of pg_cron again: how many. A slot that runs ends by itself.';

create or replace function pgque.status()
returns table (component text, status text, detail text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    cron_version text := (select e.extversion from pg_extension e where e.extname = 'pg_cron');
    schedule text;
    leader int;
begin
    component := 'schema';
    status := 'ok';
    detail := format('pgque %s, schema version %s, PostgreSQL %s',
        pgque.version(), (select c.schema_version from pgque.config c), current_setting('server_version'));
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
    select format('%s queues, %s subscriptions, %s retries wait, %s dead letters',
        (select count(*) from pgque.queue),
        (select count(*) from pgque.subscriber),
        (select count(*) from pgque.retry_queue),
        (select count(*) from pgque.dead_letter)) into detail;
    return next;
end
$$;
comment on function pgque.status() is 'What runs here: schema, scheduler, ticker, queues.';

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
    'Drops the schema with every queue in it. Runs with the caller''s rights: for the owner alone. The roles stay.';
