-- Delays are added: a load that is tried again, since its commit was not heard of, finds nothing new to count, and must
-- not wipe what it counted.
UPDATE loginpipe.ingest_runs
SET inserted = %(inserted)s,
    duplicates = received - accepted - rejected + %(duplicates)s,
    delay_counts = ARRAY(
        SELECT before + new
        FROM unnest(delay_counts, %(delays)s::integer[]) WITH ORDINALITY AS bucket (before, new, place)
        ORDER BY place
    ),
    delay_seconds = delay_seconds + %(delay_seconds)s
WHERE run_id = %(run_id)s
RETURNING delay_counts
