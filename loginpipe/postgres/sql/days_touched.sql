-- Days that runs have brought logins of, since a run that was seen before.
SELECT DISTINCT day::date
FROM loginpipe.ingest_runs AS run,
    generate_series(
        (run.oldest_sent_at AT TIME ZONE 'UTC')::date, (run.newest_sent_at AT TIME ZONE 'UTC')::date, interval '1 day'
    ) AS day
WHERE run.inserted > 0 AND run.finished_at > %(since)s AND run.finished_at <= %(until)s
ORDER BY 1
