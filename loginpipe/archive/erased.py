"""Who was erased since a day's file was last the same as the table, and must not come back with it. Pure.

Of a user who was erased before that, the file has later logins only: the erasure took the others from the table.
So what is left out does not depend on the time of a login, which neither has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from loginpipe.archive.digest import Row
from loginpipe.common.errors import ArchivedDayError
from loginpipe.masking.tokens import TokenKeys

# Tombstones of one erasure, of a version of the token key each, are written by one statement, microseconds apart.
_ONE_ERASURE = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Tombstone:
    """A row of ``loginpipe.erased_users``: HMAC of the user id, version of the token key, when."""

    tombstone: bytes
    key_version: int
    erased_at: datetime


def require_keys_for(tombstones: Sequence[Tombstone], keys: TokenKeys) -> None:
    """Make sure that each of these erasures left a tombstone that can be told with the keys at hand.

    Raises:
        ArchivedDayError: one did not; names the versions that would tell.
    """
    for erasure in _erasures(tombstones):
        versions = {tombstone.key_version for tombstone in erasure}
        if not versions & set(keys.field_keys):
            named = " or ".join(str(version) for version in sorted(versions))
            raise ArchivedDayError(
                f"a user was erased at {erasure[0].erased_at:%Y-%m-%d %H:%M:%S} UTC, and could come back: they can be "
                f"told with token key version {named} only; add it to LOGINPIPE_TOKEN_KEYS"
            )


def without_erased(rows: Iterable[Row], tombstones: Iterable[Tombstone], keys: TokenKeys) -> list[Row]:
    """Leave out the rows of erased users.

    Args:
        rows: of a file that was last the same as the table before these users were erased.
        tombstones: of the erasures since.
        keys: the token keys; a tombstone of any version held counts.
    """
    gone = {tombstone.tombstone for tombstone in tombstones}
    known: dict[str, bool] = {}
    kept = []
    for row in rows:
        user = row[0] or ""
        if user not in known:
            known[user] = bool(gone & set(keys.tombstones(user).values()))
        if not known[user]:
            kept.append(row)
    return kept


def _erasures(tombstones: Sequence[Tombstone]) -> list[list[Tombstone]]:
    ordered = sorted(tombstones, key=lambda tombstone: tombstone.erased_at)
    groups = [[tombstone] for tombstone in ordered[:1]]
    for before, tombstone in pairwise(ordered):
        if tombstone.erased_at - before.erased_at <= _ONE_ERASURE:
            groups[-1].append(tombstone)
        else:
            groups.append([tombstone])
    return groups
