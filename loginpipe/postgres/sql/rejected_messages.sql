SELECT message_id::text, sent_at, received_at, reasons, fields, replayed_at
FROM loginpipe.rejected_messages
WHERE (%(message_id)s::uuid IS NULL OR message_id = %(message_id)s::uuid)
    AND (%(reason)s::text IS NULL OR %(reason)s = ANY (reasons))
    AND (%(since)s::timestamptz IS NULL OR sent_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR sent_at < %(until)s)
    AND (%(replayed)s OR replayed_at IS NULL)
ORDER BY sent_at DESC, message_id
LIMIT %(most)s
