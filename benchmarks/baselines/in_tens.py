"""The solution of a careful person: ten messages, one INSERT of ten rows, one commit, one batch delete."""

from contextlib import closing

import psycopg2
from psycopg2.extras import execute_values

from benchmarks.baselines.plain import COLUMNS, database_url, delete, received, row, sqs

_INSERT = f"INSERT INTO user_logins ({', '.join(COLUMNS)}) VALUES %s"  # noqa: S608


def main() -> None:
    """Process messages until the queue is empty."""
    client, url = sqs()
    with closing(psycopg2.connect(database_url())) as connection, connection.cursor() as cursor:
        while messages := received(client, url, 10):
            execute_values(cursor, _INSERT, [row(message["Body"]) for message in messages])
            connection.commit()
            delete(client, url, [message["ReceiptHandle"] for message in messages])


if __name__ == "__main__":
    main()
