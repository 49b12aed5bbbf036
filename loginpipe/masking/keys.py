"""Where keys come from: a provider, chosen by the scheme of a URI (`loginpipe.masking.key_uris`).

Each provider has a file of its own, and so have the pinned fingerprints of seal keys and the salt of a compat masking.
"""

import re
from pathlib import Path

from loginpipe.common.errors import KeyFileError
from loginpipe.masking import key_files
from loginpipe.masking.aws_clients import kms_client, secrets_manager_client
from loginpipe.masking.fingerprints import NamedSealKey, require_pinned
from loginpipe.masking.key_uris import FILE, KMS, SECRETS_MANAGER, KeyUri, key_path, key_uri, kms_keys_by_version
from loginpipe.masking.kms_keys import kms_key, read_kms_seal_key, read_kms_token_keys
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.secret_keys import read_secret_token_keys, rotate_secret
from loginpipe.masking.tokens import TokenKeys

SEAL_OFF = "off"
"""The value of ``LOGINPIPE_SEAL_KEY`` for tokens only: nothing sealed, so nothing recoverable."""

SEAL_KEY = "LOGINPIPE_SEAL_KEY"
_SETTING = "LOGINPIPE_TOKEN_KEYS"


def token_key_uri(uri: str) -> KeyUri:
    """Take ``LOGINPIPE_TOKEN_KEYS`` apart.

    Raises:
        KeyFileError: it names no provider of token keys.
    """
    return key_uri(uri, _SETTING, (FILE, KMS, SECRETS_MANAGER))


def seal_key_uris(uris: str) -> tuple[KeyUri, ...]:
    """Take ``LOGINPIPE_SEAL_KEY`` apart; there are none where it is `SEAL_OFF`.

    Raises:
        KeyFileError: a part names no provider of seal keys.
    """
    if uris == SEAL_OFF:
        return ()
    return tuple(key_uri(part, SEAL_KEY, (FILE, KMS)) for part in re.split(r",\s*", uris))


def load_token_keys(uri: str, *, production: bool) -> TokenKeys:
    """Load and derive the token keys.

    Args:
        uri: the value of ``LOGINPIPE_TOKEN_KEYS``.
        production: refuse keys that were made for development, and AWS endpoints without https.

    Raises:
        KeyFileError: unknown scheme; keys absent, malformed, refused, readable by others, or for development only.
    """
    keys = read_token_keys(uri, production=production)
    if production and keys.development:
        source = token_key_uri(uri)
        place = key_path(source, _SETTING) if source.provider == FILE else f"the secret {source.name}"
        raise KeyFileError(f"{place} holds a development key, which production refuses: run `loginpipe keys generate`")
    return keys


def read_token_keys(uri: str, *, production: bool) -> TokenKeys:
    """Read and derive the token keys, those for development in production too.

    Raises:
        KeyFileError: as `load_token_keys`.
    """
    source = token_key_uri(uri)
    if source.provider == FILE:
        return key_files.read_token_keys(key_path(source, _SETTING))
    if source.provider == SECRETS_MANAGER:
        return read_secret_token_keys(secrets_manager_client(production=production), source.name)
    key_ids = kms_keys_by_version(source, _SETTING)
    return read_kms_token_keys(kms_client(production=production), key_ids)


def rotate_token_keys(uri: str, *, production: bool) -> TokenKeys:
    """Add a new version of the token key where the setting says they are, and make it the current one.

    Raises:
        KeyFileError: it cannot be read or written; the keys are in KMS, where a new key is made by its administrator.
    """
    source = token_key_uri(uri)
    if source.provider == FILE:
        return key_files.rotate_token_keys(key_path(source, _SETTING))
    if source.provider == SECRETS_MANAGER:
        return rotate_secret(secrets_manager_client(production=production), source.name)
    by_version = kms_keys_by_version(source, _SETTING)
    new = max(by_version) + 1
    held = ",".join(f"v{version}={key_id}" for version, key_id in sorted(by_version.items()))
    raise KeyFileError(
        f"keys in KMS are rotated there: make an HMAC_256 key for GENERATE_VERIFY_MAC, say alias/tokens-{new}, and set "
        f"{_SETTING} to awskms:{held},v{new}=alias/tokens-{new}"
    )


def read_seal_keys(uris: str, *, production: bool) -> tuple[NamedSealKey, ...]:
    """Read the public keys that ``LOGINPIPE_SEAL_KEY`` names, pinned or not; none where sealing is off.

    Raises:
        KeyFileError: unknown scheme; a key absent, malformed, refused, too short, or named twice.
    """
    named = tuple(_read_seal_key(uri, production=production) for uri in seal_key_uris(uris))
    if len({each.key.fingerprint for each in named}) < len(named):
        raise KeyFileError(f"{SEAL_KEY} names one key twice: name each recipient once")
    return named


def load_seal_keys(uri: str, *, fingerprint: str | None, production: bool) -> tuple[SealKey, ...]:
    """Load the public keys that data keys are wrapped with, in the setting's order; none where sealing is off.

    Args:
        uri: the value of ``LOGINPIPE_SEAL_KEY``.
        fingerprint: the pinned SHA-256 of each key in hex, with commas between them, in any order; or None.
        production: refuse keys without a pinned fingerprint.

    Raises:
        KeyFileError: as `read_seal_keys`; not pinned, or not the ones pinned.
    """
    named = read_seal_keys(uri, production=production)
    if named and (production or fingerprint is not None):
        require_pinned(named, fingerprint)
    return tuple(each.key for each in named)


def key_file(uri: str, setting: str) -> Path:
    """Return the file that a ``file:`` URI names.

    Raises:
        KeyFileError: another scheme, or no such home folder; names the setting, not its value.
    """
    return key_path(key_uri(uri, setting, (FILE,)), setting)


def _read_seal_key(uri: KeyUri, *, production: bool) -> NamedSealKey:
    if uri.provider == FILE:
        path = key_path(uri, SEAL_KEY)
        return NamedSealKey(uri, str(path), key_files.read_seal_key(path))
    return NamedSealKey(uri, kms_key(uri.name), read_kms_seal_key(kms_client(production=production), uri.name))
