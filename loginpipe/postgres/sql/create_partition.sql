-- The lock makes loads wait before they choose a partition: a row on its way to the default one would otherwise fail
-- with 23514 when this commits. Queries pass.
LOCK TABLE ONLY {table} IN SHARE ROW EXCLUSIVE MODE;

-- Made apart and attached later: CREATE TABLE … PARTITION OF would lock every query on the table out.
CREATE TABLE {partition} (LIKE {table} INCLUDING ALL)
