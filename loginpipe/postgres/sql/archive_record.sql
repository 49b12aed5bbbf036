INSERT INTO loginpipe.archived_days (day, row_count, sha256, url, file_bytes, file_sha256, verified_at)
VALUES (%(day)s, %(row_count)s, %(sha256)s, %(url)s, %(file_bytes)s, %(file_sha256)s, clock_timestamp())
ON CONFLICT (day) DO UPDATE SET
    row_count = EXCLUDED.row_count,
    sha256 = EXCLUDED.sha256,
    url = EXCLUDED.url,
    file_bytes = EXCLUDED.file_bytes,
    file_sha256 = EXCLUDED.file_sha256,
    archived_at = clock_timestamp(),
    verified_at = clock_timestamp()
WHERE archived_days.dropped_at IS NULL
