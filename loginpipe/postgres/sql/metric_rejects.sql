SELECT fault.reason, fault.field, count(*)
FROM loginpipe.rejected_messages AS rejected, unnest(rejected.reasons, rejected.fields) AS fault (reason, field)
WHERE rejected.received_at >= %(since)s AND rejected.received_at < %(until)s
GROUP BY fault.reason, fault.field
