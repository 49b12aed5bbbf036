UPDATE loginpipe.archived_days
SET dropped_at = NULL,
    kept_until = greatest(kept_until, (clock_timestamp() AT TIME ZONE 'UTC')::date + %(kept_days)s),
    verified_at = CASE WHEN %(same)s THEN clock_timestamp() END
WHERE day = %(day)s
