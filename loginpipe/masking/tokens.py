"""Make tokens: equal values get equal tokens, and no one without the key can recover or guess a value.

A token is the HMAC-SHA-256 of the canonical value, with a key derived for its field, written as
``<field prefix>.v<key version>.<43 base64url characters>``. A plain or salted hash is not enough: there are so few
addresses and device ids that one core tries them all in minutes.
"""

import hmac
import re
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from loginpipe.logins.canonical import all_spellings, canonical_address, canonical_device_id, is_address
from loginpipe.masking.compat import CompatMasking, received

PREFIXES: Mapping[str, str] = {"ip": "ip", "device_id": "dev"}
"""Masked field → prefix of its tokens."""

KEYED_FIELDS = (*PREFIXES, "user_id")
"""The fields with a derived key: the masked ones, and the user id, whose key makes the tombstones of erased users."""

_DERIVATION = b"loginpipe.token.v1."
_CHECK_LABEL = b"loginpipe.token-key-check.v1"
_SUCCESSOR_LABEL = b"loginpipe.token-key-successor.v1"


def derivation_label(field_name: str) -> bytes:
    """Return the text whose MAC with a token key is a field's key: the message for AWS KMS' ``GenerateMac``."""
    return _DERIVATION + field_name.encode()


def derive_field_keys(token_key: bytes) -> dict[str, bytes]:
    """Return the 32-byte key of each of `KEYED_FIELDS`, derived from one 32-byte token key."""
    return {name: hmac.digest(token_key, derivation_label(name), "sha256") for name in KEYED_FIELDS}


def token_pattern(field_name: str) -> re.Pattern[str]:
    """Return the pattern that every token of a field matches in full."""
    return re.compile(rf"{PREFIXES[field_name]}\.v[1-9][0-9]{{0,4}}\.[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True)
class TokenKeys:
    """The derived token keys: one per version and field. Versions below ``current`` make no new tokens.

    Attributes:
        current: the version that makes new tokens.
        field_keys: version → field name → 32 bytes.
        development: True if made by ``loginpipe local`` or in a ``local`` environment; production refuses such keys.
    """

    current: int
    field_keys: Mapping[int, Mapping[str, bytes]] = field(repr=False)
    development: bool = False

    @property
    def older(self) -> tuple[int, ...]:
        """The versions before the current one. The table may hold their tokens."""
        return tuple(sorted(version for version in self.field_keys if version < self.current))

    def tokens(self, field_name: str, canonical_values: Sequence[bytes], version: int | None = None) -> list[str]:
        """Return the token of each canonical value of one field, in order, with the current version by default.

        Raises:
            KeyError: there is no key of this version.
        """
        version = self.current if version is None else version
        macs = _macs(self.field_keys[version][field_name], canonical_values)
        prefix = f"{PREFIXES[field_name]}.v{version}."
        # Encode all at once: with a byte after it each MAC fills 44 characters, and the first 43 are its own encoding.
        text = urlsafe_b64encode(b"\x00".join([*macs, b""])).decode()
        return [prefix + text[start : start + 43] for start in range(0, len(text), 44)]

    def tokens_of_every_version(self, field_name: str, canonical_value: bytes) -> list[str]:
        """Return the token of a canonical value in every version, the oldest first."""
        return [self.tokens(field_name, [canonical_value], version)[0] for version in sorted(self.field_keys)]

    def tombstones(self, user_id: str) -> dict[int, bytes]:
        """Return, by version, the 32-byte tombstone of an erased user. All spellings of the id have the same tombstone.

        The id is stripped and encoded as UTF-8 in Unicode's NFC. A lone surrogate (in no login) raises no error.
        """
        return {version: tombstone for version, (tombstone,) in self.tombstones_of_all([user_id]).items()}

    def tombstones_of_all(self, user_ids: Iterable[str]) -> dict[int, list[bytes]]:
        """Return, by version, the tombstone of each user, in order. See `tombstones`."""
        values = [unicodedata.normalize("NFC", user).strip().encode("utf-8", "surrogatepass") for user in user_ids]
        return {version: _macs(keys["user_id"], values) for version, keys in self.field_keys.items()}

    def check_values(self) -> dict[int, bytes]:
        """Return, by version, a value that identifies the key and from which no one can derive it."""
        return self._made_by_keys(_CHECK_LABEL)

    def successor_proofs(self) -> dict[int, bytes]:
        """Return, by version, 32 bytes that only its key can make. Recording the next version requires them."""
        return self._made_by_keys(_SUCCESSOR_LABEL)

    def _made_by_keys(self, label: bytes) -> dict[int, bytes]:
        return {
            version: hmac.digest(keys["ip"], label + keys["device_id"], "sha256")
            for version, keys in self.field_keys.items()
        }


def _macs(key: bytes, values: Iterable[bytes]) -> list[bytes]:
    """Return the HMAC-SHA-256 of each value. The key set-up takes twice as long as a short MAC, so it is done once."""
    keyed, macs = HMAC(key, SHA256()), []
    for value in values:
        mac = keyed.copy()
        mac.update(value)
        macs.append(mac.finalize())
    return macs


class PlaceholderToken(NamedTuple):
    """The token of a placeholder for ``ip`` or ``device_id``, made by a key version (``v1``) or an older scheme."""

    token: str
    field: str
    made_by: str


def placeholder_tokens(
    further: Iterable[str], keys: TokenKeys, compat: CompatMasking | None = None
) -> list[PlaceholderToken]:
    """Return the tokens of built-in and further placeholders, for the current and older key versions, each once.

    Versions above the current one make no tokens yet. An older scheme in use adds its values of the placeholders.
    """
    texts = all_spellings(further)
    addresses = list(filter(is_address, texts))
    canonical = {
        "ip": list(dict.fromkeys(map(canonical_address, addresses))),
        "device_id": list(dict.fromkeys(map(canonical_device_id, texts))),
    }
    found = [
        PlaceholderToken(token, field, f"v{version}")
        for version in (*keys.older, keys.current)
        for field, values in canonical.items()
        for token in keys.tokens(field, values, version)
    ]
    if compat is not None:
        found += [
            PlaceholderToken(token, field, compat.name)
            for field, as_received in (("ip", addresses), ("device_id", texts))
            for token in compat.tokens(list(dict.fromkeys(map(received, as_received))))
        ]
    return found
