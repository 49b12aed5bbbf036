SELECT fault.reason, fault.field, count(*)
FROM loginpipe.rejected_messages AS rejected, unnest(rejected.reasons, rejected.fields) AS fault (reason, field)
GROUP BY fault.reason, fault.field
ORDER BY fault.reason, fault.field
