"""Make tokens: equal values get equal tokens, and no one without the key can recover or guess a value.

A token is the HMAC-SHA-256 of the canonical value, with a key derived for its field, written as
``<field prefix>.v<key version>.<43 base64url characters>``. A plain or salted hash is not enough: there are so few
addresses and device ids that one core tries them all in minutes.
"""

import hmac
import json
import re
import secrets
import unicodedata
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from loginpipe.common.errors import KeyFileError
from loginpipe.logins.canonical import all_spellings, canonical_address, canonical_device_id, is_address
from loginpipe.masking.compat import CompatMasking, received

PREFIXES: Mapping[str, str] = {"ip": "ip", "device_id": "dev"}
"""Masked field → prefix of its tokens."""

KEYED_FIELDS = (*PREFIXES, "user_id")
"""The fields with a derived key: the masked ones, and the user id, whose key makes the tombstones of erased users."""


def derivation_label(field_name: str) -> bytes:
    """Return the text whose MAC with a token key is a field's key: the message for AWS KMS' ``GenerateMac``."""
    return b"loginpipe.token.v1." + field_name.encode()


def derive_field_keys(token_key: bytes) -> dict[str, bytes]:
    """Return the 32-byte key of each of `KEYED_FIELDS`, derived from one 32-byte token key."""
    return {name: hmac.digest(token_key, derivation_label(name), "sha256") for name in KEYED_FIELDS}


def token_pattern(field_name: str) -> re.Pattern[str]:
    """Return the pattern that every token of a field matches in full."""
    return re.compile(rf"{PREFIXES[field_name]}\.v[1-9][0-9]{{0,4}}\.[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True)
class TokenKeys:
    """The derived token keys: one per version and field. Only the ``current`` version makes new tokens.

    Attributes:
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
        """Return the token of each canonical value of one field, in order, with the current version by default."""
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
        return self._made_by_keys(b"loginpipe.token-key-check.v1")

    def successor_proofs(self) -> dict[int, bytes]:
        """Return, by version, 32 bytes that only its key can make. Recording the next version requires them."""
        return self._made_by_keys(b"loginpipe.token-key-successor.v1")

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


TOKEN_KEY_BYTES = 32
MAX_VERSION = 32_767
"""The maximum of the ``smallint`` column in ``token_key_checks``."""


@dataclass(frozen=True)
class TokenKeyDocument:
    """Token keys by version: 32 bytes each. `current` makes new tokens; production refuses `development` keys.

    In a file or a secret it is ``{"current": 1, "development": false, "keys": {"1": "<32 bytes in base64>"}}``.
    """

    current: int
    keys: Mapping[int, bytes] = field(repr=False)
    development: bool = False

    def derived(self) -> TokenKeys:
        """Return the derived keys, which make the tokens."""
        keys = {version: derive_field_keys(key) for version, key in self.keys.items()}
        return TokenKeys(self.current, keys, self.development)

    def text(self) -> str:
        """Return the document as text that `parse_document` reads."""
        keys = {str(version): b64encode(key).decode() for version, key in sorted(self.keys.items())}
        return json.dumps({"current": self.current, "development": self.development, "keys": keys}, indent=2) + "\n"


def new_document(*, development: bool) -> TokenKeyDocument:
    """Return a document with a new token key of version 1."""
    return TokenKeyDocument(1, {1: secrets.token_bytes(TOKEN_KEY_BYTES)}, development)


def parse_document(content: str | bytes, source: str) -> TokenKeyDocument:
    """Parse a document.

    Raises:
        KeyFileError: the content has another form than above. The message names the source and quotes no content.
    """
    try:
        document = _parsed(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise KeyFileError(f"{source} is no token key file: make one with `loginpipe keys generate`") from None
    if document.current not in document.keys or any(len(key) != TOKEN_KEY_BYTES for key in document.keys.values()):
        raise KeyFileError(f"{source}: every key must be {TOKEN_KEY_BYTES} bytes, and `current` the version of one")
    if min(document.keys) < 1 or max(document.keys) > MAX_VERSION:
        raise KeyFileError(f"{source}: versions of token keys go from 1 to {MAX_VERSION}")
    return document


def rotated(document: TokenKeyDocument, source: str) -> TokenKeyDocument:
    """Return the document with one more version, which becomes the current one. The other versions stay."""
    version = max(document.keys) + 1
    if version > MAX_VERSION:
        raise KeyFileError(f"{source} holds the last version that there can be, {MAX_VERSION}")
    keys = {**document.keys, version: secrets.token_bytes(TOKEN_KEY_BYTES)}
    return replace(document, current=version, keys=keys)


def united(current: TokenKeyDocument, previous: TokenKeyDocument, source: str) -> TokenKeyDocument:
    """Return the keys of two documents. The current version is that of `current`."""
    differing = [v for v, key in previous.keys.items() if current.keys.get(v, key) != key]
    if differing:
        raise KeyFileError(
            f"{source}: AWSCURRENT and AWSPREVIOUS hold two keys under version {min(differing)}: put the right one as "
            "a new value twice, so that both stages hold it"
        )
    development = current.development or previous.development
    return replace(current, keys={**previous.keys, **current.keys}, development=development)


def _parsed(content: str | bytes) -> TokenKeyDocument:
    document = json.loads(content)
    current, development = document["current"], document.get("development", False)
    versions = {text: int(text) for text in document["keys"] if text.isascii() and text.isdigit()}
    distinct = len(set(versions.values())) == len(document["keys"])
    if not distinct or type(current) is not int or type(development) is not bool:
        raise ValueError
    keys = {version: b64decode(document["keys"][text], validate=True) for text, version in versions.items()}
    return TokenKeyDocument(current, keys, development)


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
