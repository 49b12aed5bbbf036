"""Load the keys that the settings name, from the provider in their URI, and check their pins.

Failures are `KeyFileError`s. They name the setting or the place of a key, never the value, which may be a key.

    file:keys/token_keys.json               a path, relative to the current folder unless it begins with a slash
    awskms:alias/tokens                     a key id, ARN or alias: a token key of version 1, or a seal key
    awskms:v1=alias/one,v2=alias/two        token keys of several versions; the highest version is current
    secretsmanager:loginpipe/token-keys     the name or ARN of a secret

Seal keys are a list of such URIs, separated by commas, so their paths and names contain no comma.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from loginpipe.common.errors import KeyFileError
from loginpipe.masking import aws_keys, key_files
from loginpipe.masking.aws_keys import kms_client, secrets_manager_client
from loginpipe.masking.compat import HMAC, SALTED, CompatMasking
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import MAX_VERSION, TokenKeys

FILE = "file"
KMS = "awskms"
SECRETS_MANAGER = "secretsmanager"

_VERSION = re.compile(r"v([1-9][0-9]{0,4})=(\S+)")


@dataclass(frozen=True)
class KeyUri:
    """A provider and the key's name there."""

    provider: str
    name: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.name}"


def key_uri(text: str, setting: str, providers: Collection[str]) -> KeyUri:
    """Split a URI into provider and name."""
    provider, _, name = text.partition(":")
    if provider not in providers or not name.strip():
        known = " or ".join(f"{known}:" for known in providers)
        raise KeyFileError(f"{setting} must be a {known} URI, as in file:keys/key-file")
    return KeyUri(provider, name)


def key_path(uri: KeyUri, setting: str) -> Path:
    """Return the path in a ``file:`` URI."""
    try:
        return Path(uri.name.removeprefix("//")).expanduser()
    except RuntimeError:
        raise KeyFileError(f"{setting} names the home folder of a user who does not exist: fix the path") from None


def kms_keys_by_version(uri: KeyUri, setting: str) -> dict[int, str]:
    """Return version → key id of the token keys in an ``awskms:`` URI."""
    parts = uri.name.split(",")
    if len(parts) == 1 and "=" not in uri.name:
        return {1: uri.name}
    found = [_VERSION.fullmatch(part.strip()) for part in parts]
    keys = {int(match[1]): match[2] for match in found if match}
    if len(keys) < len(parts) or max(keys) > MAX_VERSION:
        raise KeyFileError(
            f"{setting} must name one key, or each version once up to v{MAX_VERSION}, as in "
            "awskms:v1=alias/one,v2=alias/two"
        )
    if len(set(keys.values())) < len(keys):
        raise KeyFileError(f"{setting} names one key under two versions: a new version needs a key of its own")
    return keys


SEAL_OFF = "off"
"""The value of ``LOGINPIPE_SEAL_KEY`` that turns sealing off: only tokens are stored, and no value is recoverable."""

SEAL_KEY = "LOGINPIPE_SEAL_KEY"
_SETTING = "LOGINPIPE_TOKEN_KEYS"


@dataclass(frozen=True)
class NamedSealKey:
    """A seal key and its location, for messages."""

    uri: KeyUri
    place: str
    key: SealKey


def token_key_uri(uri: str) -> KeyUri:
    """Parse ``LOGINPIPE_TOKEN_KEYS``."""
    return key_uri(uri, _SETTING, (FILE, KMS, SECRETS_MANAGER))


def seal_key_uris(uris: str) -> tuple[KeyUri, ...]:
    """Parse ``LOGINPIPE_SEAL_KEY``; return no URI if it is `SEAL_OFF`."""
    if uris == SEAL_OFF:
        return ()
    return tuple(key_uri(part, SEAL_KEY, (FILE, KMS)) for part in re.split(r",\s*", uris))


def load_token_keys(uri: str, *, production: bool) -> TokenKeys:
    """Load and derive the token keys. In production, refuse development keys, and AWS endpoints without https."""
    keys = read_token_keys(uri, production=production)
    if production and keys.development:
        source = token_key_uri(uri)
        place = key_path(source, _SETTING) if source.provider == FILE else f"the secret {source.name}"
        raise KeyFileError(f"{place} holds a development key, which production refuses: run `loginpipe keys generate`")
    return keys


def read_token_keys(uri: str, *, production: bool) -> TokenKeys:
    """Read and derive the token keys. Unlike `load_token_keys`, accept development keys in production."""
    source = token_key_uri(uri)
    if source.provider == FILE:
        return key_files.read_token_keys(key_path(source, _SETTING))
    if source.provider == SECRETS_MANAGER:
        return aws_keys.read_secret_token_keys(secrets_manager_client(production=production), source.name)
    key_ids = kms_keys_by_version(source, _SETTING)
    return aws_keys.read_kms_token_keys(kms_client(production=production), key_ids)


def rotate_token_keys(uri: str, *, production: bool) -> TokenKeys:
    """Add a new version to the token keys that the setting names, and make it the current one."""
    source = token_key_uri(uri)
    if source.provider == FILE:
        return key_files.rotate_token_keys(key_path(source, _SETTING))
    if source.provider == SECRETS_MANAGER:
        return aws_keys.rotate_secret(secrets_manager_client(production=production), source.name)
    by_version = kms_keys_by_version(source, _SETTING)
    new = max(by_version) + 1
    held = ",".join(f"v{version}={key_id}" for version, key_id in sorted(by_version.items()))
    raise KeyFileError(
        f"keys in KMS are rotated there: make an HMAC_256 key for GENERATE_VERIFY_MAC, say alias/tokens-{new}, and set "
        f"{_SETTING} to awskms:{held},v{new}=alias/tokens-{new}"
    )


def read_seal_keys(uris: str, *, production: bool) -> tuple[NamedSealKey, ...]:
    """Read the public keys that ``LOGINPIPE_SEAL_KEY`` names, without checking pins. Return none if sealing is off."""
    named = tuple(_read_seal_key(uri, production=production) for uri in seal_key_uris(uris))
    if len({each.key.fingerprint for each in named}) < len(named):
        raise KeyFileError(f"{SEAL_KEY} names one key twice: name each recipient once")
    return named


def load_seal_keys(uri: str, *, fingerprint: str | None, production: bool) -> tuple[SealKey, ...]:
    """Load the public keys that wrap data keys, in the setting's order. Return none if sealing is off.

    ``uri`` is the value of ``LOGINPIPE_SEAL_KEY``, and ``fingerprint`` the pinned SHA-256 of each key in hex, separated
    by commas, in any order; or None. In production, keys without a pinned fingerprint are refused.
    """
    named = read_seal_keys(uri, production=production)
    if named and (production or fingerprint is not None):
        _require_pinned(named, fingerprint)
    return tuple(each.key for each in named)


def key_file(uri: str, setting: str) -> Path:
    """Return the path in a ``file:`` URI."""
    return key_path(key_uri(uri, setting, (FILE,)), setting)


def _read_seal_key(uri: KeyUri, *, production: bool) -> NamedSealKey:
    if uri.provider == FILE:
        path = key_path(uri, SEAL_KEY)
        return NamedSealKey(uri, str(path), key_files.read_seal_key(path))
    key = aws_keys.read_kms_seal_key(kms_client(production=production), uri.name)
    return NamedSealKey(uri, aws_keys.kms_key(uri.name), key)


_FINGERPRINT = "LOGINPIPE_SEAL_KEY_FINGERPRINT"


def pinned_fingerprints(setting: str | None) -> frozenset[str]:
    """Parse ``LOGINPIPE_SEAL_KEY_FINGERPRINT``: lower the case, and remove the colons that other tools write."""
    if setting is None:
        return frozenset()
    return frozenset(part.replace(":", "").strip().lower() for part in setting.split(","))


def _require_pinned(named: Sequence[NamedSealKey], setting: str | None) -> None:
    """Raise an error unless the keys are exactly the pinned ones, in any order."""
    if setting is None:
        found = ",".join(each.key.fingerprint for each in named)
        places = " and ".join(each.place for each in named)
        right = "is the right key" if len(named) == 1 else "are the right keys"
        raise KeyFileError(
            f"{_FINGERPRINT} is not set, and production demands it: if {places} {right}, set it to {found}"
        )
    pinned = pinned_fingerprints(setting)
    for each in named:
        if each.key.fingerprint not in pinned:
            raise KeyFileError(
                f"{each.place} has the fingerprint {each.key.fingerprint}, not the one in {_FINGERPRINT}: the key was "
                "swapped, or the setting is out of date"
            )
    if len(pinned) > len(named):
        raise KeyFileError(
            f"{_FINGERPRINT} pins {len(pinned)} keys and LOGINPIPE_SEAL_KEY names {len(named)}: "
            "a recipient was left out, or the setting is out of date"
        )


COMPAT_SALT = "LOGINPIPE_COMPAT_SALT"


def load_compat(name: str, salt: str | None, *, production: bool) -> CompatMasking | None:
    """Return the older scheme to mask with, or None for tokens. Only the salted scheme needs the URI of a salt."""
    if name == HMAC:
        return None
    return CompatMasking(name, _salt(salt, production=production) if name == SALTED else b"")


def _salt(uri: str | None, *, production: bool) -> bytes:
    if uri is None:
        raise KeyFileError(
            f"{COMPAT_SALT} is not set, and {SALTED} needs it: set it to the URI of the salt, as in file:keys/salt"
        )
    source = key_uri(uri, COMPAT_SALT, (FILE, SECRETS_MANAGER))
    if source.provider == FILE:
        salt = key_files.read_salt(key_path(source, COMPAT_SALT))
    else:
        salt = aws_keys.read_secret_salt(secrets_manager_client(production=production), source.name)
    if not salt:
        raise KeyFileError(f"{COMPAT_SALT} names an empty salt: restore the one that the table's values were made with")
    return salt
