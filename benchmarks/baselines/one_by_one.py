"""The most common solution: one message, one INSERT, one commit, one delete."""

from contextlib import closing

import psycopg2

from benchmarks.baselines.plain import COLUMNS, database_url, received, row, sqs

_INSERT = f"INSERT INTO user_logins ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"  # noqa: S608


def main() -> None:
    """Process messages until the queue is empty."""
    client, url = sqs()
    with closing(psycopg2.connect(database_url())) as connection, connection.cursor() as cursor:
        while messages := received(client, url, 1):
            for message in messages:
                cursor.execute(_INSERT, row(message["Body"]))
                connection.commit()
                client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    main()
