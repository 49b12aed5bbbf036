-- Loads wait here, before they choose a partition, and queries pass. Without the lock a row could reach the default
-- partition after its neighbours were moved out of it, and either this or the load would fail with 23514.
LOCK TABLE ONLY {table} IN SHARE ROW EXCLUSIVE MODE;

-- Made apart and attached later: CREATE TABLE … PARTITION OF would lock every query on the table out.
CREATE TABLE {partition} (LIKE {table} INCLUDING ALL)
