"""Where keys come from: a provider, chosen by the scheme of a URI. So far there is one, ``file:``.

A path in a ``file:`` URI is relative to the current folder unless it begins with a slash.
"""

from pathlib import Path
from typing import Final

from loginpipe.errors import KeyFileError
from loginpipe.masking.key_files import read_seal_key, read_token_keys
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import TokenKeys

SEAL_OFF: Final = "off"
"""The value of ``LOGINPIPE_SEAL_KEY`` for tokens only: nothing sealed, so nothing recoverable."""


def load_token_keys(uri: str, *, production: bool) -> TokenKeys:
    """Load and derive the token keys.

    Args:
        uri: the value of ``LOGINPIPE_TOKEN_KEYS``.
        production: refuse keys that were made for development.

    Raises:
        KeyFileError: unknown scheme; keys absent, malformed, readable by others, or for development only.
    """
    path = key_file(uri, "LOGINPIPE_TOKEN_KEYS")
    keys = read_token_keys(path)
    if production and keys.development:
        raise KeyFileError(f"{path} holds a development key, which production refuses: run `loginpipe keys generate`")
    return keys


def load_seal_keys(uri: str, *, fingerprint: str | None, production: bool) -> tuple[SealKey, ...]:
    """Load the public keys that data keys are wrapped with: one, or none where sealing is off.

    Args:
        uri: the value of ``LOGINPIPE_SEAL_KEY``.
        fingerprint: the pinned SHA-256 of the key in hex, or None.
        production: refuse a key without a pinned fingerprint.

    Raises:
        KeyFileError: unknown scheme; key absent, malformed, too short, not pinned, or not the one pinned.
    """
    if uri == SEAL_OFF:
        return ()
    path = key_file(uri, "LOGINPIPE_SEAL_KEY")
    key = read_seal_key(path)
    if fingerprint is None and production:
        raise KeyFileError(
            f"LOGINPIPE_SEAL_KEY_FINGERPRINT is not set, and production demands it: if {path} is the right key, "
            f"set it to {key.fingerprint}"
        )
    if fingerprint is not None and fingerprint.replace(":", "").strip().lower() != key.fingerprint:
        raise KeyFileError(
            f"{path} has the fingerprint {key.fingerprint}, not the one in LOGINPIPE_SEAL_KEY_FINGERPRINT: "
            "the key was swapped, or the setting is out of date"
        )
    return (key,)


def key_file(uri: str, setting: str) -> Path:
    """Return the file that a ``file:`` URI names.

    Raises:
        KeyFileError: another scheme, or no such home folder; names the setting, not its value.
    """
    scheme, colon, path = uri.partition(":")
    if scheme != "file" or not colon or not path:
        raise KeyFileError(f"{setting} must be a file: URI, as in file:keys/key-file")
    try:
        return Path(path.removeprefix("//")).expanduser()
    except RuntimeError:
        raise KeyFileError(f"{setting} names the home folder of a user who does not exist: mend the path") from None
