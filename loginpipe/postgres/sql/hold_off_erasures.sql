-- In the other isolation levels the next statements would go on seeing what was there before the lock was waited for.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;

SELECT pg_advisory_xact_lock_shared(%(lock)s)
