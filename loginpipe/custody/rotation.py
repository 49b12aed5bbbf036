"""The custodian's part of a rotation of the token key: values that do not come back, and aliases that are not verified.

The pipeline writes an alias for each value that it sees again, and whoever has its login can write a false one. So
every value of an older version is opened here once, a batch at a time: it is sealed under the token of the current
version unless it is already, and its alias is written or corrected, and marked as verified. A batch is written as a
whole or not at all, and what is verified is not opened again: so it can be killed at any point and started again, and
two at once do some work twice.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from loginpipe.common.errors import KeyFileError, OpeningError
from loginpipe.custody.access import MAX_SUBJECTS, Bulk, release_under
from loginpipe.custody.opening import DataKeys, Opened, Opener, Opening, Problem, open_released, planted
from loginpipe.custody.token_checks import Families, TokenChecks, canonical, read_families, token_version
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import PREFIXES, TokenKeys
from loginpipe.postgres.connections import Connection, Cursor, transaction
from loginpipe.postgres.erasures import hold_off_erasures
from loginpipe.postgres.statements import statement
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe.postgres.vault import insert_sealed, known_tokens, verify_aliases


@dataclass
class Rotation:
    """What a rotation did.

    Attributes:
        rotated: tokens that lead to one of the current version now.
        sealed: values that were sealed again; the pipeline had sealed the others meanwhile.
        corrected: aliases that led to the token of another value; they were planted.
        unchecked: those of the rotated that were of a lost version, so that nothing shows whether they are the token's.
        refused: the errors of values that do not open or may not be believed; they stay as they are.
    """

    rotated: int = 0
    sealed: int = 0
    corrected: int = 0
    unchecked: int = 0
    refused: list[OpeningError] = field(default_factory=list)


@dataclass(frozen=True)
class _Renewed:
    """A value under a token of an older version, its token of the current one, and the aliases that lead there.

    Attributes:
        corrects: its alias led to the token of another value.
    """

    value: Opened
    new: str
    aliases: Sequence[tuple[str, str]]
    corrects: bool


def rotate(
    connection: Connection,
    bulk: Bulk,
    opener: Opener,
    keys: TokenKeys,
    recipients: Sequence[SealKey],
    *,
    lost: Collection[int] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Rotation:
    """Give every sealed value a token of the current version, and its older ones a verified alias to that.

    Args:
        connection: of a role that is custodian and writer, with no transaction open.
        bulk: the bulk request to make the others under.
        opener: the private keys.
        keys: the token keys, with every version that there are values of.
        recipients: the public keys to seal for.
        lost: versions whose key is gone for good: their values are taken for what they are stored as.
        progress: told the number of tokens looked at, batch by batch.

    Raises:
        AccessRefusedError: a request or release was refused.
        KeyFileError: a version of the token key is not held and not said to be lost; KMS is unreachable or refuses.
        OpeningError: a data key is for none of the private keys.
        DatabaseError: as `transaction`. What was written before any of these stays.
    """
    # An alias leads to a version that is in use.
    check_token_keys(connection, keys)
    done, data_keys, checks, after = Rotation(), DataKeys(opener), TokenChecks(keys), ""
    while batch := tokens_to_rotate(connection, keys.current, after, MAX_SUBJECTS):
        _require_versions(batch, {*keys.field_keys, *lost})
        families = read_families(connection, batch)
        opening = open_released(release_under(connection, bulk, batch), data_keys, checks)
        for error in opening.refused:
            if error.problem == Problem.OTHER_RECIPIENT:
                raise error
        renewed = _renewed(opening, families, keys, checks, done.refused)
        done.sealed += _write(connection, renewed, recipients)
        done.corrected += sum(each.corrects for each in renewed)
        done.rotated += len(renewed)
        done.unchecked += sum(not each.value.checked for each in renewed)
        done.refused += opening.refused
        after = batch[-1]
        progress(len(batch))
    return done


def _require_versions(tokens: Sequence[str], versions: Collection[int]) -> None:
    absent = {version for token in tokens if (version := token_version(token)) not in versions}
    if absent:
        version = min(absent, key=str)
        raise KeyFileError(
            f"LOGINPIPE_TOKEN_KEYS does not have version {version}, which stored values need: add it until the "
            f"rotation is complete; if that key is lost, use --lost-version {version}"
        )


def _renewed(
    opening: Opening, families: Families, keys: TokenKeys, checks: TokenChecks, refused: list[OpeningError]
) -> list[_Renewed]:
    renewed = []
    for opened in opening.opened.values():
        value = canonical(opened.field_name, opened.plaintext)
        if value is None:
            refused.append(planted(opened.subject, opened.field_name))
            continue
        (new,) = keys.tokens(opened.field_name, [value])
        family = families.of(opened.subject)
        # What an alias says is believed of the others only where the value bears it out, or no key can tell.
        strangers = {m for m in family if checks.fits(m, opened.field_name, opened.plaintext) is False}
        aliases = [(member, new) for member in family if member != new and member not in strangers]
        renewed.append(_Renewed(opened, new, aliases, corrects=family[0] in strangers))
    return renewed


def _write(connection: Connection, renewed: Sequence[_Renewed], recipients: Sequence[SealKey]) -> int:
    known = known_tokens(connection, [each.new for each in renewed])
    values = {each.new: each.value for each in renewed if each.new not in known}
    sealed = [
        seal([(new, v.plaintext) for new, v in values.items() if v.field_name == name], name, recipients)
        for name in PREFIXES
    ]
    with transaction(connection) as cursor:
        hold_off_erasures(cursor)
        # Whoever was erased since the release is not brought back.
        there = still_there(cursor, [each.value.subject for each in renewed])
        kept = {each.new for each in renewed if each.value.subject in there}
        inserted = insert_sealed(
            cursor,
            Sealed(
                [data_key for part in sealed for data_key in part.data_keys],
                [block.only(kept) for part in sealed for block in part.blocks],
            ),
        )
        aliases = {old: new for each in renewed if each.value.subject in there for old, new in each.aliases}
        verify_aliases(cursor, list(aliases.items()))
    return inserted


_ALL = None


def tokens_to_rotate(connection: Connection, version: int, after: str = "", limit: int | None = _ALL) -> list[str]:
    """Return tokens of sealed values of older versions that have no verified alias to the version yet, in order.

    Args:
        connection: of a role that may read tokens, with no transaction open.
        version: the current one.
        after: only tokens that come after this one.
        limit: at most so many.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("tokens_to_rotate"), {"version": version, "after": after, "limit": limit})
        return [token for (token,) in cursor]


def count_to_rotate(connection: Connection, version: int) -> int:
    """Count the tokens that `tokens_to_rotate` returns."""
    with transaction(connection) as cursor:
        # ours, and without a value in it
        query = f"SELECT count(*) FROM ({statement('tokens_to_rotate')}) AS pending"  # noqa: S608
        cursor.execute(query, {"version": version, "after": "", "limit": _ALL})
        ((count,),) = cursor.fetchall()
        return int(count)


def still_there(cursor: Cursor, tokens: Sequence[str]) -> frozenset[str]:
    """Return those of the tokens whose values are still sealed."""
    cursor.execute("SELECT token FROM vault.sealed_values WHERE token = ANY (%s)", (list(tokens),))
    return frozenset(token for (token,) in cursor)
