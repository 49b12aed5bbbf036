-- How many days are archived and how many of them dropped, and the oldest day of late, yesterday aside, that has rows and
-- no file.
SELECT
    (SELECT count(*) FROM loginpipe.archived_days),
    (SELECT count(*) FROM loginpipe.archived_days WHERE dropped_at IS NOT NULL),
    (
        SELECT min(late.day)::date
        FROM generate_series(%(today)s::date - 30, %(today)s::date - 2, interval '1 day') AS late (day)
        WHERE NOT EXISTS (SELECT FROM loginpipe.archived_days AS archived WHERE archived.day = late.day)
            AND EXISTS (SELECT FROM public.user_logins WHERE create_date = late.day::date)
    )
