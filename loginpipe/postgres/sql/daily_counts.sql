-- Of the daily counts, not of user_logins: a few thousand rows a day, whatever the volume.
SELECT create_date, sum(logins)::bigint, coalesce(sum(logins) FILTER (WHERE locale IS NULL), 0)::bigint
FROM loginpipe.daily_logins
WHERE create_date BETWEEN %(first)s AND %(last)s
GROUP BY create_date
