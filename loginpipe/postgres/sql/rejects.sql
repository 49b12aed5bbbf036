-- name: insert_new_rejects
-- Insert the rejected messages that are not in the ledger yet. Rejects and logins share the ledger: a message has one
-- outcome, even if a later version would decide otherwise.
WITH new_messages AS (
    INSERT INTO loginpipe.ingested_messages (message_id, sent_on, batch_id)
    SELECT message_id, sent_on, %(batch_id)s
    FROM incoming_rejects
    ORDER BY message_id, sent_on
    ON CONFLICT DO NOTHING
    RETURNING message_id
)
INSERT INTO loginpipe.rejected_messages (
    message_id, sent_at, received_at, batch_id, reasons, fields, sealed_body, data_key_id, position
)
SELECT
    message_id,
    timestamptz 'epoch' + sent_ms * interval '1 millisecond',
    timestamptz 'epoch' + received_ms * interval '1 millisecond',
    %(batch_id)s,
    reasons,
    fields,
    sealed_body,
    data_key_id,
    position
FROM incoming_rejects
JOIN new_messages USING (message_id)
RETURNING message_id::text

-- name: rejected_messages
-- Find rejected messages, newest first. A filter that is NULL is not applied.
SELECT message_id::text, sent_at, received_at, reasons, fields, replayed_at
FROM loginpipe.rejected_messages
WHERE (%(message_id)s::uuid IS NULL OR message_id = %(message_id)s::uuid)
    AND (%(reason)s::text IS NULL OR %(reason)s = ANY (reasons))
    AND (%(since)s::timestamptz IS NULL OR sent_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR sent_at < %(until)s)
    AND (%(replayed)s OR replayed_at IS NULL)
ORDER BY sent_at DESC, message_id
LIMIT %(limit)s
