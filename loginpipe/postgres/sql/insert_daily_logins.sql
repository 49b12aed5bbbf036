INSERT INTO loginpipe.daily_logins (create_date, device_type, locale, app_version, logins, users)
SELECT create_date, device_type, locale, app_version, count(*), count(DISTINCT user_id)
FROM public.user_logins
WHERE create_date = %(day)s
GROUP BY create_date, device_type, locale, app_version
