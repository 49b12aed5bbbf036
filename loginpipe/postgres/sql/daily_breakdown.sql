WITH of_day AS (
    SELECT device_type, locale, app_version, logins
    FROM loginpipe.daily_logins
    WHERE create_date = %(day)s
)
SELECT 'device_type', device_type, sum(logins)::bigint FROM of_day GROUP BY device_type
UNION ALL
SELECT 'locale', coalesce(locale, 'none'), sum(logins)::bigint FROM of_day GROUP BY locale
UNION ALL
SELECT 'version', loginpipe.app_version_text(app_version), sum(logins)::bigint FROM of_day GROUP BY app_version
ORDER BY 1, 3 DESC, 2
