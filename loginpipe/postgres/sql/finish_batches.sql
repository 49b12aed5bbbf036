UPDATE loginpipe.batches AS batch
SET deleted = done.deleted,
    delete_failures = done.delete_failures,
    leases_lost = done.leases_lost,
    finished_at = clock_timestamp()
FROM unnest(%(batch_ids)s::uuid[], %(deleted)s::integer[], %(delete_failures)s::integer[], %(leases_lost)s::integer[])
    AS done (batch_id, deleted, delete_failures, leases_lost)
WHERE batch.batch_id = done.batch_id
