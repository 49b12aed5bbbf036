-- In the order of loginpipe.logins_by_day.
SELECT user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date
FROM public.user_logins
WHERE create_date = %(day)s
ORDER BY
    user_id COLLATE "C" NULLS FIRST, device_type COLLATE "C" NULLS FIRST,
    masked_ip COLLATE "C" NULLS FIRST, masked_device_id COLLATE "C" NULLS FIRST,
    locale COLLATE "C" NULLS FIRST, app_version NULLS FIRST
