-- Days that batches have brought logins of, since some time.
SELECT DISTINCT day
FROM loginpipe.batches, unnest(days) AS day
WHERE recorded_at > %(since)s AND recorded_at <= %(until)s
ORDER BY 1
