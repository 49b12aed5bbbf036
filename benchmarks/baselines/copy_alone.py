"""Measure the best case for Postgres: ready-made rows from a file, COPY to a temporary table, INSERT from there."""

import sys
from contextlib import closing
from io import BytesIO
from pathlib import Path

import psycopg2

from benchmarks.baselines.plain import COLUMNS, database_url

_CREATE = """
    CREATE TEMPORARY TABLE incoming_logins (
        arrival integer NOT NULL,
        sent_ms bigint NOT NULL,
        message_id uuid NOT NULL,
        user_id text NOT NULL,
        device_type text NOT NULL,
        masked_ip text NOT NULL,
        masked_device_id text NOT NULL,
        locale text,
        app_version integer NOT NULL,
        create_date date NOT NULL
    ) ON COMMIT DROP
"""
_INSERT = f"INSERT INTO user_logins SELECT {', '.join(COLUMNS)} FROM incoming_logins ORDER BY arrival"  # noqa: S608


def main() -> None:
    """Copy the rows of the file into the table, in one transaction."""
    rows = BytesIO(Path(sys.argv[1]).read_bytes())
    with closing(psycopg2.connect(database_url())) as connection, connection, connection.cursor() as cursor:
        cursor.execute(_CREATE)
        cursor.copy_expert("COPY incoming_logins FROM STDIN", rows, size=1 << 16)
        cursor.execute(_INSERT)


if __name__ == "__main__":
    main()
