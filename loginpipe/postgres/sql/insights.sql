-- name: begin_duplicates
-- Start to compute the duplicates of a day. The lock prevents a month from being dropped between a statement's snapshot
-- and its read of the partitions.
LOCK TABLE ONLY public.user_logins IN ACCESS SHARE MODE;

CREATE TEMPORARY TABLE day_pairs (
    token text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    logins bigint NOT NULL
) ON COMMIT DROP;

CREATE TEMPORARY TABLE changed_tokens (
    token text COLLATE "C" NOT NULL,
    new_token text COLLATE "C",
    since date NOT NULL
) ON COMMIT DROP

-- name: read_day
-- Read a day's pairs of token and user, and the tokens that changed for other reasons. It is one statement so that
-- every alias it follows is among the changes, and the day is either in the table or dropped. Pairs are sorted by token
-- so that later look-ups find neighbours in memory.
WITH taken AS (
    DELETE FROM loginpipe.token_changes
    WHERE asset = %(asset)s
    RETURNING token
),
named AS (
    SELECT DISTINCT taken.token, alias.new_token
    FROM taken
    LEFT JOIN loginpipe.token_aliases AS alias ON alias.old_token = taken.token
),
changed AS (
    INSERT INTO changed_tokens (token, new_token, since)
    SELECT token, new_token, '-infinity'::date
    FROM named
    UNION ALL
    SELECT new_token, NULL, '-infinity'::date
    FROM named
    WHERE new_token IS NOT NULL
    RETURNING 1
),
pairs AS (
    INSERT INTO day_pairs (token, user_id, logins)
    SELECT token, user_id, count(*)
    FROM (
        SELECT {token}::text COLLATE "C" AS token, user_id::text COLLATE "C" AS user_id
        FROM loginpipe.user_logins_canonical
        WHERE create_date = %(day)s AND {token} IS NOT NULL AND user_id IS NOT NULL
    ) AS login
    GROUP BY token, user_id
    ORDER BY token, user_id
)
SELECT
    (SELECT count(*) FROM changed) > 0,
    EXISTS (SELECT FROM loginpipe.archived_days WHERE day = %(day)s AND dropped_at IS NOT NULL),
    EXISTS (SELECT FROM loginpipe.days WHERE day = %(day)s AND {state} IS NOT NULL),
    (clock_timestamp() AT TIME ZONE 'UTC')::date

-- name: merge_aliased
-- Move the kept pairs of a token to the token that it now leads to, and add them to the pairs there.
WITH moved AS (
    DELETE FROM {users} AS pair
    USING changed_tokens AS changed
    WHERE pair.{token} = changed.token AND changed.new_token IS NOT NULL
    RETURNING changed.new_token AS token, pair.user_id, pair.month, pair.logins, pair.late
),
places AS (
    SELECT token, user_id, month, place, sum(logins[place])::integer AS logins, sum(late[place])::integer AS late
    FROM moved
    CROSS JOIN generate_series(1, 31) AS place
    GROUP BY token, user_id, month, place
)
INSERT INTO {users} AS known ({token}, user_id, month, logins, late)
SELECT
    token,
    user_id,
    month,
    array_agg(logins ORDER BY place),
    CASE WHEN count(late) > 0 THEN array_agg(late ORDER BY place) END
FROM places
GROUP BY token, user_id, month
ON CONFLICT ({token}, user_id, month) DO UPDATE SET
    logins = ARRAY(
        SELECT coalesce(known.logins[place] + EXCLUDED.logins[place], known.logins[place], EXCLUDED.logins[place])
        FROM generate_series(1, 31) AS place
        ORDER BY place
    ),
    late = CASE
        WHEN known.late IS NULL OR EXCLUDED.late IS NULL THEN coalesce(known.late, EXCLUDED.late)
        ELSE ARRAY(
            SELECT coalesce(known.late[place] + EXCLUDED.late[place], known.late[place], EXCLUDED.late[place])
            FROM generate_series(1, 31) AS place
            ORDER BY place
        )
    END

-- name: keep_day
-- Keep the day's pairs, and count those that were new or different. Pairs that are no longer in the table stay: an
-- erasure deletes them here too, and retention must not lower any number. If a later day is kept already, or this day
-- is only in the archive, the rows of these tokens must be computed again from the kept pairs.
WITH kept AS (
    INSERT INTO {users} AS known ({token}, user_id, month, {part})
    SELECT token, user_id, %(month)s, array_fill(NULL::integer, ARRAY[%(place)s - 1]) || logins::integer
    FROM day_pairs
    ORDER BY token, user_id
    ON CONFLICT ({token}, user_id, month) DO UPDATE SET {part}[%(place)s] = EXCLUDED.{part}[%(place)s]
    WHERE known.{part}[%(place)s] IS DISTINCT FROM EXCLUDED.{part}[%(place)s]
    RETURNING {token} AS token
),
changed AS (
    INSERT INTO changed_tokens (token, since)
    SELECT DISTINCT token, %(day)s::date
    FROM kept
    WHERE %(dropped)s::boolean OR EXISTS (SELECT FROM loginpipe.days WHERE day > %(day)s AND {state} IS NOT NULL)
)
SELECT count(*)
FROM kept

-- name: keep_restored
-- Clear the late logins of a restored day, because the table now contains them.
UPDATE {users}
SET late[%(place)s] = NULL
WHERE month = %(month)s AND late IS NOT NULL AND late[%(place)s] IS NOT NULL

-- name: compute_changed
-- Compute the rows of the changed tokens from the kept pairs, from the day of the change to yesterday. A token that is
-- now an alias of another has no rows any more.
WITH changed AS (
    SELECT token, min(since) AS since
    FROM changed_tokens
    GROUP BY token
),
computed AS (
    SELECT kept.*
    FROM ({kept_rows}) AS kept
    JOIN changed USING (token)
    WHERE kept.day >= changed.since AND kept.day < %(today)s
),
gone AS (
    DELETE FROM {table} AS known
    USING changed
    WHERE known.{token} = changed.token COLLATE "default"
        AND known.create_date >= changed.since
        AND known.create_date < %(today)s
        -- Other days have no kept pairs, so their rows stay as they are.
        AND EXISTS (SELECT FROM loginpipe.days WHERE day = known.create_date AND {state} IS NOT NULL)
        AND NOT EXISTS (
            SELECT FROM computed WHERE computed.token = known.{token} AND computed.day = known.create_date
        )
)
INSERT INTO {table} AS known (create_date, {token}, users, logins, first_date, last_date)
SELECT day, token, users, logins, first_date, day
FROM computed
ORDER BY day, token
ON CONFLICT (create_date, {token}) DO UPDATE SET
    users = EXCLUDED.users, logins = EXCLUDED.logins, first_date = EXCLUDED.first_date
WHERE (known.users, known.logins, known.first_date) <> (EXCLUDED.users, EXCLUDED.logins, EXCLUDED.first_date)

-- name: kept_rows
-- Compute the rows of the given tokens from the kept pairs, for each day on which a token was seen.
SELECT token, day, users, logins, first_date
FROM (
    SELECT
        token,
        day,
        (sum(new_users) OVER so_far)::integer AS users,
        (sum(logins) OVER so_far)::bigint AS logins,
        min(day) OVER so_far AS first_date
    FROM (
        SELECT token, day, sum(logins) AS logins, count(*) FILTER (WHERE day = first_day) AS new_users
        FROM (
            SELECT
                {token} AS token, day, logins,
                min(day) OVER (PARTITION BY {token}, user_id) AS first_day
            FROM {days}
            WHERE {token} IN (SELECT token FROM {tokens})
                AND {token} NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = %(field)s)
        ) AS of_user
        GROUP BY token, day
    ) AS of_day
    WINDOW so_far AS (PARTITION BY token ORDER BY day)
) AS of_token
WHERE users > 1

-- name: compute_day
-- Compute the rows of a day, and count the tokens that were seen on it. A row is the token's newest row of an earlier
-- day plus the logins of this day. A token without an earlier row had at most one user, so it has few kept pairs. The
-- day itself is read from user_logins, so it does not matter whether its pairs are kept already.
WITH pairs AS (
    SELECT
        token,
        logins,
        NOT EXISTS (
            SELECT
            FROM {users} AS known
            WHERE known.{token} = pair.token
                AND known.user_id = pair.user_id
                AND (
                    known.month < %(month)s
                    OR known.month = %(month)s
                    AND (0 < ANY (known.logins[:%(place)s - 1]) OR 0 < ANY (known.late[:%(place)s - 1]))
                )
            -- Forces one index look-up per pair. With enough work_mem, Postgres would read all kept pairs into a hash
            -- table.
            OFFSET 0
        ) AS is_new
    FROM (SELECT * FROM day_pairs ORDER BY token) AS pair
    WHERE token NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = %(field)s)
),
of_day AS (
    SELECT token, sum(logins)::bigint AS logins, (count(*) FILTER (WHERE is_new))::integer AS new_users
    FROM pairs
    GROUP BY token
),
with_earlier AS MATERIALIZED (
    SELECT
        of_day.*,
        earlier.users AS earlier_users,
        earlier.logins AS earlier_logins,
        earlier.first_date AS earlier_date
    FROM of_day
    LEFT JOIN LATERAL (
        SELECT users, logins, first_date
        FROM {table}
        WHERE {token} = of_day.token COLLATE "default" AND create_date < %(day)s
        ORDER BY create_date DESC
        LIMIT 1
    ) AS earlier ON true
),
computed AS (
    SELECT
        token,
        earlier_users + new_users AS users,
        earlier_logins + logins AS logins,
        earlier_date AS first_date
    FROM with_earlier
    WHERE earlier_users IS NOT NULL
    UNION ALL
    SELECT
        token,
        kept.users::integer + new_users,
        coalesce(kept.logins, 0) + with_earlier.logins,
        coalesce(kept.first_date, %(day)s)
    FROM with_earlier
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT user_id) AS users, sum(logins)::bigint AS logins, min(day) AS first_date
        FROM {days}
        WHERE {token} = with_earlier.token AND day < %(day)s
    ) AS kept
    WHERE earlier_users IS NULL AND new_users > 0 AND kept.users + new_users > 1
),
gone AS (
    DELETE FROM {table} AS known
    WHERE known.create_date = %(day)s
        AND NOT EXISTS (SELECT FROM computed WHERE computed.token = known.{token})
),
written AS (
    INSERT INTO {table} AS known (create_date, {token}, users, logins, first_date, last_date)
    SELECT %(day)s, token, users, logins, first_date, %(day)s
    FROM computed
    ORDER BY token
    ON CONFLICT (create_date, {token}) DO UPDATE SET
        users = EXCLUDED.users, logins = EXCLUDED.logins, first_date = EXCLUDED.first_date
    WHERE (known.users, known.logins, known.first_date) <> (EXCLUDED.users, EXCLUDED.logins, EXCLUDED.first_date)
)
SELECT count(*)
FROM with_earlier

-- name: count_seen
-- Count the tokens in the late logins of a dropped day, without placeholders.
SELECT count(DISTINCT token)
FROM day_pairs
WHERE token NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = %(field)s)

-- name: top_duplicates
-- List the tokens of a day that have the most users. Each row also has the number of all rows of the day.
SELECT
    {token}, users, logins, first_date, last_date,
    (SELECT count(*) FROM {table} WHERE create_date = %(day)s)
FROM {table}
WHERE create_date = %(day)s
ORDER BY users DESC, logins DESC, {token}
LIMIT %(limit)s

-- name: forget_kept
-- Delete the kept pairs of the days that user_logins has. Pairs of days that are only in the archive stay.
WITH dropped AS (
    SELECT day
    FROM loginpipe.archived_days
    WHERE dropped_at IS NOT NULL
),
emptied AS (
    DELETE FROM {users} AS pair
    WHERE NOT EXISTS (
        SELECT
        FROM generate_series(1, 31) AS place
        JOIN dropped ON dropped.day = pair.month + place - 1
        WHERE pair.logins[place] IS NOT NULL OR pair.late[place] IS NOT NULL
    )
)
UPDATE {users} AS pair
SET
    logins = ARRAY(
        SELECT CASE WHEN dropped.day IS NOT NULL THEN pair.logins[place] END
        FROM generate_series(1, 31) AS place
        LEFT JOIN dropped ON dropped.day = pair.month + place - 1
        ORDER BY place
    ),
    late = CASE
        WHEN pair.late IS NOT NULL THEN ARRAY(
            SELECT CASE WHEN dropped.day IS NOT NULL THEN pair.late[place] END
            FROM generate_series(1, 31) AS place
            LEFT JOIN dropped ON dropped.day = pair.month + place - 1
            ORDER BY place
        )
    END
WHERE EXISTS (
    SELECT
    FROM generate_series(1, 31) AS place
    JOIN dropped ON dropped.day = pair.month + place - 1
    WHERE pair.logins[place] IS NOT NULL OR pair.late[place] IS NOT NULL
)

-- name: forget_days
-- Make each day due again that has, or had, rows in user_logins.
WITH stored AS (
    SELECT create_date AS day, 1 AS changes
    FROM public.user_logins
    WHERE create_date BETWEEN '0001-01-01' AND '9999-12-31'
    GROUP BY create_date
    UNION
    SELECT day, greatest(changes, 1)
    FROM loginpipe.days
)
INSERT INTO loginpipe.days AS known (day, changes)
SELECT day, max(changes)
FROM stored
WHERE day NOT IN (SELECT day FROM loginpipe.archived_days WHERE dropped_at IS NOT NULL)
GROUP BY day
ORDER BY day
ON CONFLICT (day) DO UPDATE SET changes = EXCLUDED.changes, {asset} = 0, {state} = NULL

-- name: day_to_compare
-- Choose one of the last 30 kept days that user_logins still has, at random.
SELECT day
FROM (
    SELECT day
    FROM loginpipe.days
    WHERE {state} > 0
        AND day NOT IN (SELECT day FROM loginpipe.archived_days WHERE dropped_at IS NOT NULL)
    ORDER BY day DESC
    LIMIT 30
) AS of_late
ORDER BY random()
LIMIT 1

-- name: compare_duplicates
-- For a sample of the tokens of a day, compare the day's logins with the kept pairs, and the day's rows with those
-- computed from all kept pairs. One statement sees both sides at the same moment. The sample is empty if a day or a
-- token is waiting for a computation.
WITH sample AS MATERIALIZED (
    SELECT {token} AS token
    FROM loginpipe.user_logins_canonical
    WHERE create_date = %(day)s
        AND {token} IS NOT NULL
        AND {token} NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = %(field)s)
        AND NOT EXISTS (SELECT FROM loginpipe.token_changes WHERE asset = %(asset)s)
        AND NOT EXISTS (SELECT FROM loginpipe.day_changes)
        AND NOT EXISTS (SELECT FROM loginpipe.days WHERE day <= %(day)s AND coalesce({state}, 0) < changes)
    GROUP BY {token}
    ORDER BY random()
    LIMIT %(limit)s
),
stored AS (
    SELECT {token} AS token, user_id, count(*) AS logins
    FROM loginpipe.user_logins_canonical
    WHERE create_date = %(day)s AND user_id IS NOT NULL AND {token} IN (SELECT token FROM sample)
    GROUP BY {token}, user_id
),
kept AS (
    SELECT {token} AS token, user_id, logins
    FROM {days}
    WHERE day = %(day)s AND {token} IN (SELECT token FROM sample)
),
differing AS (
    SELECT token
    FROM stored
    FULL JOIN kept USING (token, user_id)
    WHERE stored.logins IS DISTINCT FROM kept.logins
    UNION
    SELECT token
    FROM (
        SELECT token, users, logins, first_date
        FROM ({kept_rows}) AS kept
        WHERE day = %(day)s
    ) AS computed
    FULL JOIN (
        SELECT {token} AS token, users, logins, first_date
        FROM {table}
        WHERE create_date = %(day)s AND {token} IN (SELECT token FROM sample)
    ) AS known USING (token)
    WHERE (computed.users, computed.logins, computed.first_date)
        IS DISTINCT FROM (known.users, known.logins, known.first_date)
)
SELECT (SELECT count(*) FROM sample), (SELECT count(*) FROM differing)

-- name: delete_daily_logins
-- Delete the counts of a day. Counts of logins that retention has dropped stay until the day is restored.
DELETE FROM loginpipe.daily_logins AS counted
WHERE create_date = %(day)s
    AND NOT (
        kept AND EXISTS (
            SELECT
            FROM loginpipe.archived_days AS archived
            WHERE archived.day = counted.create_date AND archived.dropped_at IS NOT NULL
        )
    )

-- name: insert_daily_logins
-- Count the logins and users of a day by device type, locale and version.
INSERT INTO loginpipe.daily_logins (create_date, device_type, locale, app_version, logins, users)
SELECT create_date, device_type, locale, app_version, count(*), count(DISTINCT user_id)
FROM public.user_logins
WHERE create_date = %(day)s
GROUP BY create_date, device_type, locale, app_version

-- name: daily_breakdown
-- Sum up the counts of a day by device type, by locale and by version, the most frequent first. An adopted table may
-- have numbers that encode no version.
WITH of_day AS (
    SELECT device_type, locale, app_version, logins
    FROM loginpipe.daily_logins
    WHERE create_date = %(day)s
)
SELECT 'device_type', device_type, sum(logins)::bigint FROM of_day GROUP BY device_type
UNION ALL
SELECT 'locale', coalesce(locale, 'none'), sum(logins)::bigint FROM of_day GROUP BY locale
UNION ALL
SELECT
    'version',
    CASE
        WHEN app_version BETWEEN 0 AND 2146999999 THEN loginpipe.app_version_text(app_version)
        ELSE app_version::text
    END,
    sum(logins)::bigint
FROM of_day
GROUP BY app_version
ORDER BY 1, 3 DESC, 2

-- name: daily_counts
-- Sum up the logins of each day, and those without a locale. This reads the daily counts, a few thousand rows per day
-- at any volume, instead of user_logins.
SELECT create_date, sum(logins)::bigint, coalesce(sum(logins) FILTER (WHERE locale IS NULL), 0)::bigint
FROM loginpipe.daily_logins
WHERE create_date BETWEEN %(first)s AND %(last)s
GROUP BY create_date
