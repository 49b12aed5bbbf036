SELECT
    attname,
    format_type(atttypid, atttypmod)
FROM pg_attribute
WHERE attrelid = to_regclass('public.user_logins')
    AND attnum > 0
    AND NOT attisdropped
ORDER BY attnum
