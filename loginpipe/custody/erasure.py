"""Erasure of a user: logins, what only they can be recovered from, and a tombstone against what is sent again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from loginpipe.common.errors import LoginpipeError
from loginpipe.custody.access import Reason, called, refuse
from loginpipe.postgres.connections import Connection

LIMITS = (
    "What still holds them: the archive's files, until the next run of archive_logins (every night, 02:00 UTC; a "
    "bucket with versioning, until its lifecycle rule deletes old versions); backups and write-ahead logs, until they "
    "expire (docs/backups.md); replicas that lag. "
    "What this does not reach: the sealed bodies of rejected messages, which cannot be searched by user; values that "
    "other users' logins share, or that only days in the archive hold; data keys, each of which seals up to 256 "
    "values; clear values that were recovered before. "
    "Messages sent before now are not loaded again, whenever they come; later logins of the same user are new ones."
)


@dataclass(frozen=True)
class Erasure:
    """What was deleted."""

    logins: int
    sealed_values: int


def erase(connection: Connection, user_id: str, tombstones: Mapping[int, bytes], reason: Reason) -> Erasure:
    """Delete a user's logins, the sealed values that nobody else shares, and record the tombstones; on the record.

    Args:
        connection: with no transaction open.
        user_id: as in ``user_logins``.
        tombstones: by version of the token key, of every version held: `TokenKeys.tombstones`.
        reason: why.

    Raises:
        AccessRefusedError: with the refusal code.
        LoginpipeError: the user id is blank.
        DatabaseError: as `transaction`; nothing was deleted.
    """
    if not user_id.strip():
        raise LoginpipeError("the user id is blank: give the one in user_logins")
    ((refusal, logins, sealed_values),) = called(
        connection,
        "SELECT refusal, logins, sealed_values FROM vault.erase_user(%s, %s::jsonb, %s, %s)",
        (
            user_id,
            json.dumps({str(version): tombstone.hex() for version, tombstone in tombstones.items()}),
            reason.purpose,
            reason.ticket,
        ),
    )
    refuse(refusal)
    return Erasure(logins, sealed_values)
