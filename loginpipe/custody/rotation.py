"""Rotate sealed values to the current token key, and verify aliases. This needs a custodian.

The pipeline writes an alias for each value that it sees again, and anyone who has its login can write a false one.
So each value of an older version is opened here once, in batches. It is sealed under its current token unless this
exists, and its alias is written or corrected, and marked as verified. A batch is one transaction, and verified values
are not opened again. So you can kill and restart a rotation at any point. Two at the same time do some work twice.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from loginpipe.common.errors import KeyFileError, OpeningError
from loginpipe.custody.access import MAX_SUBJECTS, Bulk, release_under
from loginpipe.custody.opening import DataKeys, Opened, Opener, Opening, open_released, planted
from loginpipe.custody.token_checks import Families, TokenChecks, canonical, read_families, token_version
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import PREFIXES, TokenKeys
from loginpipe.postgres.connections import READ_COMMITTED, Connection, fetch, rows_of, transaction
from loginpipe.postgres.erasures import hold_off_erasures
from loginpipe.postgres.statements import statement
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe.postgres.vault import insert_sealed, known_tokens, verify_aliases


@dataclass
class Rotation:
    """The result of a rotation.

    Attributes:
        rotated: tokens that now lead to a token of the current version.
        sealed: values that were sealed again. The pipeline had already sealed the others.
        corrected: planted aliases, which led to the token of another value.
        unchecked: rotated tokens of a lost version. Nothing shows whether their values are the right ones.
        refused: the errors of values that do not open or cannot be trusted. They stay as they are.
    """

    rotated: int = 0
    sealed: int = 0
    corrected: int = 0
    unchecked: int = 0
    refused: list[OpeningError] = field(default_factory=list)


@dataclass(frozen=True)
class _Renewed:
    """A value under a token of an older version, its current token, and the aliases that lead there.

    `corrects` is True if its alias led to the token of another value.
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
    """Give every sealed value a token of the current version, and its older tokens a verified alias to it.

    The role must be custodian and writer. Values of the versions whose key is ``lost`` are accepted without a check.
    ``progress`` is called with the number of tokens of each batch. After an error, batches already written stay.

    Raises:
        AccessRefusedError: a request or release was refused.
        KeyFileError: a version of the token key is missing and not in `lost`; or KMS is unreachable or refuses.
        OpeningError: a data key is wrapped for none of the private keys.
    """
    # An alias must lead to a version that is in use.
    check_token_keys(connection, keys)
    done, data_keys, checks, after = Rotation(), DataKeys(opener), TokenChecks(keys), ""
    while batch := tokens_to_rotate(connection, keys.current, after, MAX_SUBJECTS):
        _require_versions(batch, {*keys.field_keys, *lost})
        families = read_families(connection, batch)
        opening = open_released(release_under(connection, bulk, batch), data_keys, checks)
        opening.require_recipient()
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
        family = families.get(opened.subject, (opened.subject,))
        # An alias counts for the other members only if the value confirms it, or no key can check it.
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
    with transaction(connection, READ_COMMITTED) as cursor:
        hold_off_erasures(cursor)
        # Do not bring back a user who was erased since the release.
        query = "SELECT token FROM vault.sealed_values WHERE token = ANY (%s)"
        there = {token for (token,) in rows_of(cursor, query, ([each.value.subject for each in renewed],))}
        kept = {each.new for each in renewed if each.value.subject in there}
        data_keys = [data_key for part in sealed for data_key in part.data_keys]
        blocks = [block.only(kept) for part in sealed for block in part.blocks]
        inserted = insert_sealed(cursor, Sealed(data_keys, blocks))
        aliases = {old: new for each in renewed if each.value.subject in there for old, new in each.aliases}
        verify_aliases(cursor, list(aliases.items()))
    return inserted


def tokens_to_rotate(connection: Connection, version: int, after: str = "", limit: int | None = None) -> list[str]:
    """Return, in order, tokens of sealed values of older versions without a verified alias to the current version.

    The role must be allowed to read tokens. Return at most `limit` tokens, only those that sort after `after`.
    """
    found = fetch(connection, statement("tokens_to_rotate"), {"version": version, "after": after, "limit": limit})
    return [token for (token,) in found]


def count_to_rotate(connection: Connection, version: int) -> int:
    """Count the tokens that `tokens_to_rotate` would return."""
    # The query is ours and contains no value.
    query = f"SELECT count(*) FROM ({statement('tokens_to_rotate')}) AS pending"  # noqa: S608
    ((count,),) = fetch(connection, query, {"version": version, "after": "", "limit": None})
    return int(count)
