SELECT rejected.message_id::text, rejected.sent_at, rejected.sealed_body, rejected.data_key_id::text, rejected.position,
    array_agg(key.recipient ORDER BY key.recipient), array_agg(key.wrapped_key ORDER BY key.recipient)
FROM loginpipe.rejected_messages AS rejected
JOIN vault.data_keys AS key USING (data_key_id)
WHERE rejected.message_id = ANY (%s::uuid[])
GROUP BY rejected.message_id
ORDER BY rejected.sent_at, rejected.message_id
