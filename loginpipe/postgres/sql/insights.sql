-- name: insert_duplicates
-- Insert a day's tokens that more than one user has logged in from, with their history up to and with the day: the same
-- whenever it is computed, late logins aside. Placeholders are left out: those users share nothing.
WITH seen AS (
    SELECT DISTINCT {token} AS token
    FROM loginpipe.user_logins_canonical
    WHERE create_date = %(day)s
        AND {token} NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = %(field)s)
)
INSERT INTO {table} (create_date, {token}, users, logins, first_date, last_date)
SELECT
    %(day)s,
    login.{token},
    count(DISTINCT login.user_id),
    count(*),
    min(login.create_date),
    max(login.create_date)
FROM loginpipe.user_logins_canonical AS login
JOIN seen ON seen.token = login.{token}
WHERE login.create_date <= %(day)s
GROUP BY login.{token}
HAVING count(DISTINCT login.user_id) > 1

-- name: count_seen
-- Count the tokens of a day, without placeholders.
SELECT count(DISTINCT {token})
FROM loginpipe.user_logins_canonical
WHERE create_date = %(day)s
    AND {token} NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = %(field)s)

-- name: insert_daily_logins
-- Count a day's logins and users by device type, locale and version.
INSERT INTO loginpipe.daily_logins (create_date, device_type, locale, app_version, logins, users)
SELECT create_date, device_type, locale, app_version, count(*), count(DISTINCT user_id)
FROM public.user_logins
WHERE create_date = %(day)s
GROUP BY create_date, device_type, locale, app_version

-- name: daily_breakdown
-- Add up a day's counts by device type, by locale and by version, the most frequent first.
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

-- name: daily_counts
-- Add up the logins of each day, and those without a locale. Of the daily counts, not of user_logins: a few thousand
-- rows a day, whatever the volume.
SELECT create_date, sum(logins)::bigint, coalesce(sum(logins) FILTER (WHERE locale IS NULL), 0)::bigint
FROM loginpipe.daily_logins
WHERE create_date BETWEEN %(first)s AND %(last)s
GROUP BY create_date

-- name: days_touched
-- Find the days that batches have brought logins of, since some time.
SELECT DISTINCT day
FROM loginpipe.batches, unnest(days) AS day
WHERE recorded_at > %(since)s AND recorded_at <= %(until)s
ORDER BY 1
