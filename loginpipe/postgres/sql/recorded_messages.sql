SELECT ledger.message_id::text
FROM unnest(%s::uuid[], %s::date[]) AS asked (message_id, sent_on)
JOIN loginpipe.ingested_messages AS ledger
    ON ledger.message_id = asked.message_id AND ledger.sent_on = asked.sent_on
