"""Prove with made-up values that what the pipeline seals can be recovered."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv6Address
from uuid import UUID, uuid4

import pandas as pd

from loginpipe.common.errors import LoginpipeError, OpeningError
from loginpipe.custody.access import Released, release
from loginpipe.custody.opening import PRIVATE_KEY_OPTION, DataKeys, Opener, open_released
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.mask import mask_logins, seal_originals
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.connections import Connection, fetch, transaction
from loginpipe.postgres.statements import statement
from loginpipe.postgres.vault import insert_sealed

# 2001:db8::/32, which is reserved for documentation (RFC 3849).
_DOCUMENTATION = 0x20010DB8 << 96
_DEVICE = "loginpipe drill "
# The prefixes of the made-up values.
_MARKS = (b"2001:db8:", _DEVICE.encode())


@dataclass(frozen=True)
class Canary:
    """Made-up values as they were sealed: token → value."""

    values: Mapping[str, bytes] = field(repr=False)

    @property
    def tokens(self) -> list[str]:
        """The tokens of the values."""
        return list(self.values)


@dataclass(frozen=True)
class Drill:
    """The number of values, the fingerprints of the private keys that opened all, and those of keys not given."""

    values: int
    opened_with: list[str]
    not_tried: list[str]


def store_canary(
    connection: Connection, keys: TokenKeys, compat: CompatMasking | None, recipients: tuple[SealKey, ...]
) -> Canary:
    """Seal a made-up address and device id with the pipeline's own code, and store them. They stay in the vault.

    The role must be allowed to write to the vault. Raises LoginpipeError if sealing is off: without recipients.
    """
    if not recipients:
        raise LoginpipeError("LOGINPIPE_SEAL_KEY is off: nothing is sealed, so nothing can be recovered")
    originals = mask_logins(_made_up_login(), keys, compat).originals
    with transaction(connection) as cursor:
        insert_sealed(cursor, seal_originals(originals, frozenset(), recipients))
    return Canary({token: value for of_field in originals.values() for token, value in of_field.items()})


def recover_canary(
    connection: Connection, request_id: UUID, opener: Opener, checks: TokenChecks, canary: Canary | None
) -> Drill:
    """Release the canary, open it with each given private key, and compare the values.

    Without the canary, because another process stored it, only the tokens are compared.

    Raises:
        LoginpipeError: recovery does not work. The message names the step that failed.
        OpeningError: a value does not open, or is not the sealed one.
    """
    found = release(connection, request_id)
    released, wanted = found.found, canary.tokens if canary else list(found.places)
    if not wanted or {each.value.subject for each in released} != set(wanted):
        raise LoginpipeError("recovery does not work: the made-up values were stored, but not all were released")
    recipients = released[0].recipients
    ours = [recipient for recipient in recipients if recipient in opener.fingerprints]
    if not ours:
        raise LoginpipeError(
            f"recovery does not work with this private key: the pipeline seals for {' and '.join(recipients)}; specify "
            f"the private half of one of these with {PRIVATE_KEY_OPTION}"
        )
    for recipient in ours:
        _compare(released, opener.only(recipient), checks, canary)
    return Drill(len(released), ours, [recipient for recipient in recipients if recipient not in ours])


def _compare(released: Sequence[Released], opener: Opener, checks: TokenChecks, canary: Canary | None) -> None:
    opening = open_released(released, DataKeys(opener), checks)
    if opening.refused:
        raise opening.refused[0]
    for token, opened in opening.opened.items():
        if not opened.plaintext.startswith(_MARKS):
            raise LoginpipeError("the request is not from a drill: use `loginpipe pii recover`")
        if not opened.checked or (canary and opened.plaintext != canary.values[token]):
            raise LoginpipeError(
                f"recovery does not work: the value that opens for {token} is not the one that was sealed"
            )


@dataclass(frozen=True)
class Sample:
    """The number of opened values, how many of them no given key can compare with their tokens, and the errors."""

    values: int
    unchecked: int
    refused: list[OpeningError]


def random_tokens(connection: Connection, number: int) -> list[str]:
    """Return up to `number` tokens of sealed values, drawn at random from random pages. The role must read tokens."""
    query = "SELECT reltuples FROM pg_class WHERE oid = 'vault.sealed_values'::regclass"
    ((estimate,),) = fetch(connection, query)
    # Draw many more than needed, from many pages, because values that were sealed together share a page.
    percent = min(100.0, 100.0 * 200 * number / estimate) if estimate > 0 else 100.0
    found = fetch(connection, statement("random_tokens"), {"percent": percent, "number": number})
    return [token for (token,) in found]


def open_sample(connection: Connection, request_id: UUID, opener: Opener, checks: TokenChecks) -> Sample:
    """Release values, open them, and compare them with their tokens. Return no value."""
    found = release(connection, request_id)
    own = [each for each in found.found if each.value.subject in found.places]
    opening = open_released(own, DataKeys(opener), checks)
    unchecked = sum(opened.checked is None for opened in opening.opened.values())
    return Sample(len(opening.opened), unchecked, opening.refused)


def _made_up_login() -> pd.DataFrame:
    """Return a validated login that belongs to no real user."""
    address = IPv6Address(_DOCUMENTATION | secrets.randbits(96))
    login = {
        "message_id": str(uuid4()),
        "sent_at": pd.Timestamp(datetime.now(UTC)),
        "user_id": "",
        "device_type": "",
        "ip": str(address),
        "device_id": f"{_DEVICE}{uuid4()}",
        "locale": None,
        "app_version": 0,
    }
    return pd.DataFrame([login])
