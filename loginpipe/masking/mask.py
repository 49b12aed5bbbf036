"""Validated logins to masked ones: from here on the frame holds no personal data in clear."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from loginpipe.logins.canonical import address_text, canonical_address, canonical_device_id
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import TokenKeys, token_pattern

MASKED_COLUMNS: Final[Mapping[str, str]] = {"masked_ip": "ip", "masked_device_id": "device_id"}
"""Masked column → the field whose tokens it holds."""


@dataclass(frozen=True)
class MaskedLogins:
    """Logins without clear values, and apart from them what the tokens stand for.

    Attributes:
        logins: message_id, sent_at (datetime64[ms, UTC]), user_id, device_type, masked_ip, masked_device_id, locale,
            app_version (int32), create_date (object: date, UTC).
        originals: field name → token → canonical value in clear, for sealing. Not shown by ``repr``.
    """

    logins: pd.DataFrame
    originals: Mapping[str, Mapping[str, bytes]] = field(repr=False)


@dataclass(frozen=True)
class MaskedBatch:
    """What ``masked_logins`` hands on: the logins without clear values, and what their new tokens stand for, sealed."""

    logins: pd.DataFrame
    sealed: Sealed


def mask_logins(validated: pd.DataFrame, keys: TokenKeys) -> MaskedLogins:
    """Replace ``ip`` and ``device_id`` by tokens.

    Args:
        validated: `loginpipe.logins.schema.VALIDATED_LOGINS_SCHEMA`.
        keys: the token keys.
    """
    packed = [canonical_address(ip) for ip in validated["ip"]]
    device_ids = [canonical_device_id(device_id) for device_id in validated["device_id"]]
    ip_tokens = keys.tokens("ip", packed)
    device_tokens = keys.tokens("device_id", device_ids)
    logins = pd.DataFrame(
        {
            "message_id": validated["message_id"],
            "sent_at": validated["sent_at"],
            "user_id": validated["user_id"],
            "device_type": validated["device_type"],
            "masked_ip": pd.Series(ip_tokens, validated.index, object),
            "masked_device_id": pd.Series(device_tokens, validated.index, object),
            "locale": validated["locale"],
            "app_version": validated["app_version"],
            "create_date": validated["sent_at"].dt.date.astype(object),
        }
    )
    return MaskedLogins(
        logins,
        {
            "ip": {token: address_text(value).encode() for token, value in zip(ip_tokens, packed, strict=True)},
            "device_id": dict(zip(device_tokens, device_ids, strict=True)),
        },
    )


def clear_cells(logins: pd.DataFrame) -> dict[str, int]:
    """Count, for each masked column, the cells that are no token of its field."""
    counts = {}
    for column, field_name in MASKED_COLUMNS.items():
        is_token = token_pattern(field_name).fullmatch
        counts[column] = sum(not (isinstance(cell, str) and is_token(cell)) for cell in logins[column])
    return counts


def seal_originals(
    originals: Mapping[str, Mapping[str, bytes]], known: frozenset[str], recipients: tuple[SealKey, ...]
) -> Sealed:
    """Seal what each token stands for, leaving out the tokens that the vault knows.

    Returns:
        Nothing sealed where there is no recipient: sealing is off.
    """
    if not recipients:
        return Sealed()
    parts = [
        seal([(token, value) for token, value in values.items() if token not in known], name, recipients)
        for name, values in originals.items()
    ]
    return Sealed(
        [data_key for part in parts for data_key in part.data_keys], [value for part in parts for value in part.values]
    )
