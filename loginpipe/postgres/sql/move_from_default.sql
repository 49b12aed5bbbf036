WITH moved AS (
    DELETE FROM {default}
    WHERE {key} >= {start} AND {key} < {end}
    RETURNING {columns}
)
INSERT INTO {partition} ({columns})
SELECT {columns}
FROM moved
