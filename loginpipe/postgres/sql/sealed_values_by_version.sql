-- The version in a token, as in ip.v2.…; NULL for the values of an older masking, which name none.
SELECT substring(token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer AS key_version, count(*)
FROM vault.sealed_values
GROUP BY 1
ORDER BY 1
