-- Of the batches of one run.
SELECT
    coalesce(sum(received), 0), coalesce(sum(accepted), 0), coalesce(sum(rejected), 0), coalesce(sum(inserted), 0),
    coalesce(sum(duplicates), 0), coalesce(sum(deleted), 0), coalesce(sum(delete_failures), 0),
    coalesce(sum(leases_lost), 0)
FROM loginpipe.batches
WHERE run_id = %(run_id)s AND recorded_at >= %(since)s
