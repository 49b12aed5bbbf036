"""Mask validated logins and drop those of erased users. After this step no personal data is in clear."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from re import Pattern
from typing import Any

import pandas as pd

from loginpipe.common.logins_table import COLUMN_NAMES
from loginpipe.logins.canonical import address_text, canonical_address, canonical_device_id
from loginpipe.logins.messages import Message
from loginpipe.logins.rejects import Reason
from loginpipe.logins.splitting import SplitBatch, rejected_message
from loginpipe.masking.compat import CompatMasking, received
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import PlaceholderToken, TokenKeys, token_pattern

MASKED_COLUMNS: Mapping[str, str] = {"masked_ip": "ip", "masked_device_id": "device_id"}
"""Masked column → the field whose tokens it holds."""

# The columns kept as validated. This file makes the others.
_KEPT = ("message_id", *(name for name in COLUMN_NAMES if name not in {*MASKED_COLUMNS, "create_date"}))

_EPOCH = date(1970, 1, 1)
_DAY_MS = 86_400_000

_CANONICAL: Mapping[str, Callable[[str], bytes]] = {"ip": canonical_address, "device_id": canonical_device_id}


@dataclass(frozen=True)
class MaskedLogins:
    """Logins without clear values, and separately the values behind the tokens.

    Attributes:
        columns: message_id, user_id, device_type, masked_ip, masked_device_id, locale, app_version, sent_ms (int:
            milliseconds since 1970, UTC) and create_date (date, UTC): the values of each column, in row order.
        originals: field name → token → value in clear, for sealing. ``repr`` omits it.
        aliases: old and new token of each distinct value, for every older key version.
    """

    columns: Mapping[str, Sequence[Any]] = field(repr=False)
    originals: Mapping[str, Mapping[str, bytes]] = field(repr=False)
    aliases: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return len(self.columns["message_id"])


def mask_logins(validated: pd.DataFrame, keys: TokenKeys, compat: CompatMasking | None = None) -> MaskedLogins:
    """Replace ``ip`` and ``device_id`` by tokens, or by an older scheme's values, which then have no aliases.

    `validated` has `loginpipe.logins.schema.VALIDATED_LOGINS_SCHEMA`.
    """
    clear = {name: validated[name].tolist() for name in MASKED_COLUMNS.values()}
    if compat is None:
        values = {name: list(map(_CANONICAL[name], texts)) for name, texts in clear.items()}
        tokens = {name: keys.tokens(name, of_field) for name, of_field in values.items()}
        aliases = [alias for name, of_field in values.items() for alias in _aliases(name, of_field, keys)]
    else:
        values = {name: [received(text) for text in texts] for name, texts in clear.items()}
        tokens = {name: compat.tokens(of_field) for name, of_field in values.items()}
        aliases = []
    sent_ms = validated["sent_at"].dt.as_unit("ms").astype("int64").tolist()
    columns = {
        **{name: validated[name].tolist() for name in _KEPT},
        **{column: tokens[name] for column, name in MASKED_COLUMNS.items()},
        "sent_ms": sent_ms,
        "create_date": utc_dates(sent_ms),
    }
    originals = {name: dict(zip(tokens[name], values[name], strict=True)) for name in values}
    if compat is None:
        originals["ip"] = {token: address_text(packed).encode() for token, packed in originals["ip"].items()}
    return MaskedLogins(columns, originals, aliases)


def utc_dates(sent_ms: Sequence[int]) -> list[date]:
    """Return the UTC date of each time (milliseconds since 1970). Dates share objects: most batches have few days."""
    days = {day: _EPOCH + timedelta(days=day) for day in {ms // _DAY_MS for ms in sent_ms}}
    return [days[ms // _DAY_MS] for ms in sent_ms]


def _aliases(field_name: str, canonical_values: Iterable[bytes], keys: TokenKeys) -> list[tuple[str, str]]:
    """Return, for each distinct value, its token of every older version with its token of the current version."""
    if not keys.older:
        return []
    distinct = list(dict.fromkeys(canonical_values))
    new = keys.tokens(field_name, distinct)
    return [
        alias for version in keys.older for alias in zip(keys.tokens(field_name, distinct, version), new, strict=True)
    ]


def seen_before(
    masked: MaskedLogins, known: frozenset[str], placeholders: Sequence[PlaceholderToken] = ()
) -> dict[str, float]:
    """Return, by field, the share of logins (0 to 1) whose value occurred earlier in the batch or is in the vault.

    The vault held ``known`` before the batch. An empty batch has a share of 0. Logins with one of the ``placeholders``,
    which stand for no value, do not count as seen before.
    """
    logins = len(masked)
    shares = {}
    for column, name in MASKED_COLUMNS.items():
        values, cells = masked.originals[name], masked.columns[column]
        new = len(values) - sum(map(known.__contains__, values))
        none = [each.token for each in placeholders if each.field == name and each.token in values]
        without_value = sum(map(cells.count, none)) - sum(token not in known for token in none)
        shares[name] = (logins - new - without_value) / logins if logins else 0.0
    return shares


def clear_cells(masked: MaskedLogins, compat: CompatMasking | None = None) -> dict[str, int]:
    """Count, for each masked column, the cells that are no token of its field.

    With an older scheme, a clear value that has the form of its values is not counted.
    """
    counts = {}
    for column, field_name in MASKED_COLUMNS.items():
        pattern: Pattern[str] = token_pattern(field_name) if compat is None else compat.pattern
        cells = masked.columns[column]
        clear = () if _all_match(pattern, cells) else cells
        counts[column] = sum(not isinstance(cell, str) or pattern.fullmatch(cell) is None for cell in clear)
    return counts


def _all_match(pattern: Pattern[str], cells: Sequence[Any]) -> bool:
    """Return True if every cell matches, in less than half the time of a loop. No match contains a line feed."""
    try:
        lines = "\n".join([*cells, ""])
    except TypeError:
        return False
    return lines.count("\n") == len(cells) and bool(re.fullmatch(rf"(?:{pattern.pattern}\n)*+", lines))


def seal_originals(
    originals: Mapping[str, Mapping[str, bytes]], known: frozenset[str], recipients: tuple[SealKey, ...]
) -> Sealed:
    """Seal the values of the tokens that the vault does not hold."""
    parts = [
        seal([item for item in values.items() if item[0] not in known], name, recipients)
        for name, values in originals.items()
    ]
    return Sealed(
        [data_key for part in parts for data_key in part.data_keys], [block for part in parts for block in part.blocks]
    )


def reject_erased(
    split: SplitBatch, messages: Sequence[Message], keys: TokenKeys, erased_at: Mapping[bytes, datetime]
) -> SplitBatch:
    """Turn the logins of erased users that were sent up to the erasure into rejects without a body.

    ``messages`` are those of the batch, and ``erased_at`` maps tombstones, of any key version, to the time of the
    erasure. If no login is affected, this returns `split` itself.
    """
    if not erased_at or split.accepted.empty:
        return split
    accepted = split.accepted
    until = _erased_until(accepted["user_id"].unique().tolist(), keys, erased_at)
    of_erased = accepted[accepted["user_id"].isin(until.keys())]
    gone = [sent_at <= until[user] for user, sent_at in zip(of_erased["user_id"], of_erased["sent_at"], strict=True)]
    aside = of_erased.loc[gone, "message_id"]
    if aside.empty:
        return split
    by_id = {message.message_id: message for message in messages}
    violations = [(Reason.USER_ERASED, "user_id")]
    rejects = [rejected_message(by_id[message_id], violations, keep_body=False) for message_id in aside]
    accepted = accepted.drop(index=aside.index).reset_index(drop=True)
    gone_ids = frozenset(aside)
    extras = {message_id: extras for message_id, extras in split.extras.items() if message_id not in gone_ids}
    return replace(split, accepted=accepted, rejected=[*split.rejected, *rejects], extras=extras)


def _erased_until(users: list[str], keys: TokenKeys, erased_at: Mapping[bytes, datetime]) -> dict[str, datetime]:
    """Return the erased users with the time of their latest erasure."""
    until: dict[str, datetime] = {}
    for tombstones in keys.tombstones_of_all(users).values():
        for user, tombstone in zip(users, tombstones, strict=True):
            if tombstone in erased_at:
                until[user] = max(until.get(user, erased_at[tombstone]), erased_at[tombstone])
    return until
