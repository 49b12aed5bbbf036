INSERT INTO loginpipe.batches (
    batch_id, run_id, queue, started_at, received, accepted, rejected, inserted, duplicates, oldest_sent_at,
    newest_sent_at, days, rows_by_day, delay_counts, delay_seconds
)
VALUES (
    %(batch_id)s, %(run_id)s, %(queue)s, timestamptz 'epoch' + %(started_ms)s * interval '1 millisecond', %(received)s,
    %(accepted)s, %(rejected)s, %(inserted)s, %(duplicates)s,
    timestamptz 'epoch' + %(oldest_sent_ms)s * interval '1 millisecond',
    timestamptz 'epoch' + %(newest_sent_ms)s * interval '1 millisecond',
    %(days)s::date[], %(rows_by_day)s::integer[], %(delay_counts)s::integer[], %(delay_seconds)s
)
