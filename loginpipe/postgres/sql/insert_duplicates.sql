-- History up to and with the day, of what was seen on it: the same whenever it is computed, late logins aside.
WITH seen AS (
    SELECT DISTINCT {token} AS token
    FROM loginpipe.user_logins_canonical
    WHERE create_date = %(day)s
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
