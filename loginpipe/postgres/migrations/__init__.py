"""The warehouse's schema as Alembic migrations: ``versions/`` holds one Python file each, with its SQL beside it.

`loginpipe.postgres.migrate` runs them; there is no ``alembic.ini``. Partitions are created and dropped by date, not by
migrations.
"""
