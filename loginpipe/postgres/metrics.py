"""What the tables say about all runs so far: totals that no restart loses. Counts and times, no values of a login."""

from dataclasses import dataclass

from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement


@dataclass(frozen=True)
class QueueTotals:
    """All runs on one queue; counts of messages. See ``docs/tables.md`` for each.

    Attributes:
        finished: runs that ended well.
        unfinished: runs that are at work, or failed, or died.
        last_finished: Unix time of the newest end of a run, in seconds; None where there is none.
        newest_stored: Unix time of the newest SentTimestamp that a finished run has seen; None where there is none.
    """

    queue: str
    finished: int
    unfinished: int
    received: int
    inserted: int
    duplicates: int
    rejected: int
    deleted: int
    delete_failures: int
    leases_lost: int
    last_finished: float | None
    newest_stored: float | None


@dataclass(frozen=True)
class Totals:
    """Everything that the tables know.

    Attributes:
        queues: one entry a queue that runs have worked on.
        rejects: reason code and field → faults; a message can have several.
        sealed_values: about how many rows the vault has: Postgres' own estimate.
        token_key_version: the highest that tokens were made with; 0 where there is none.
    """

    queues: tuple[QueueTotals, ...]
    rejects: dict[tuple[str, str], int]
    sealed_values: int
    token_key_version: int


def read_totals(connection: Connection) -> Totals:
    """Read the totals.

    Args:
        connection: with no transaction open.

    Raises:
        DatabaseError: they cannot be read.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("metric_runs"))
        queues = tuple(QueueTotals(*row) for row in cursor)
        cursor.execute(statement("metric_rejects"))
        rejects = {(reason, field): number for reason, field, number in cursor}
        cursor.execute(
            """
            SELECT
                (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'vault.sealed_values'::regclass),
                (SELECT coalesce(max(key_version), 0) FROM loginpipe.token_key_checks)
            """
        )
        ((sealed_values, version),) = cursor.fetchall()
    return Totals(queues, rejects, sealed_values, version)
