-- Locks the default partition against queries while it looks there for rows of the range: a millisecond when it is
-- empty, and as long as reading it takes when it is not.
ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({start}) TO ({end})
