-- name: row_forms
-- Count the first rows of user_logins by column and by the form of the value.
WITH read AS (
    SELECT app_version, masked_ip, masked_device_id
    FROM public.user_logins
    LIMIT %(limit)s
)
SELECT
    'app_version',
    CASE
        WHEN app_version = 0 THEN '0'
        WHEN app_version < 1000 THEN 'below 1000'
        WHEN app_version < 1000000 THEN 'below 1000000'
        ELSE 'from 1000000'
    END,
    count(*)
FROM read
WHERE app_version IS NOT NULL
GROUP BY 2
UNION ALL
SELECT
    cell.name,
    CASE
        WHEN cell.value ~ '^(ip|dev)\.v[1-9][0-9]{0,4}\.[A-Za-z0-9_-]{43}$' THEN 'token'
        WHEN cell.value ~ '^[0-9a-f]{64}$' THEN 'hex64'
        WHEN cell.value ~ '^[A-Za-z0-9+/]{43}=$' THEN 'base64'
        WHEN cell.value ~ '^[0-9a-f]{32}$' THEN 'hex32'
        WHEN cell.value ~ '^[0-9]{1,3}([.][0-9]{1,3}){3}$|^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$' THEN 'address'
        ELSE 'other'
    END,
    count(*)
FROM read
CROSS JOIN LATERAL (VALUES ('masked_ip', masked_ip), ('masked_device_id', masked_device_id)) AS cell (name, value)
WHERE cell.value IS NOT NULL
GROUP BY 1, 2
