"""What the settings say of the keys, read and put together for ``loginpipe keys status``. No key is in it."""

from dataclasses import dataclass

from loginpipe.masking.fingerprints import pinned_fingerprints
from loginpipe.masking.keys import read_seal_keys, read_token_keys, token_key_uri


@dataclass(frozen=True)
class TokenKeyStatus:
    """Token keys: provider (``file``, ``awskms`` or ``secretsmanager``), versions in order, the current one."""

    provider: str
    versions: tuple[int, ...]
    current: int
    development: bool


@dataclass(frozen=True)
class SealKeyStatus:
    """A recipient: provider, its key's place in words, SHA-256 in hex, and whether that is pinned."""

    provider: str
    place: str
    fingerprint: str
    pinned: bool


def token_key_status(uri: str, *, production: bool) -> TokenKeyStatus:
    """Read the token keys and describe them, development keys in production too.

    Raises:
        KeyFileError: they cannot be used.
    """
    source = token_key_uri(uri)
    keys = read_token_keys(uri, production=production)
    return TokenKeyStatus(source.provider, tuple(sorted(keys.field_keys)), keys.current, keys.development)


def seal_key_status(uris: str, fingerprint: str | None, *, production: bool) -> tuple[SealKeyStatus, ...]:
    """Read the seal keys and describe them, those that are not pinned too; none where sealing is off.

    Raises:
        KeyFileError: one cannot be read.
    """
    pinned = pinned_fingerprints(fingerprint)
    return tuple(
        SealKeyStatus(each.uri.provider, each.place, each.key.fingerprint, each.key.fingerprint in pinned)
        for each in read_seal_keys(uris, production=production)
    )
