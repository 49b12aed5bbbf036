"""Parse the settings that name keys: ``<provider>:<name of the key there>``. Pure: it opens no key.

    file:keys/token_keys.json               a path, relative to the current folder unless it begins with a slash
    awskms:alias/tokens                     a key id, ARN or alias: a token key of version 1, or a seal key
    awskms:v1=alias/one,v2=alias/two        token keys of several versions; the highest version is current
    secretsmanager:loginpipe/token-keys     the name or ARN of a secret

Seal keys are a list of such URIs, separated by commas, so their paths and names contain no comma.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.token_key_document import MAX_VERSION

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
    """Split a URI into provider and name.

    Raises:
        KeyFileError: the provider is missing or not in `providers`. The message omits the value, which may be a key.
    """
    provider, _, name = text.partition(":")
    if provider not in providers or not name.strip():
        known = " or ".join(f"{known}:" for known in providers)
        raise KeyFileError(f"{setting} must be a {known} URI, as in file:keys/key-file")
    return KeyUri(provider, name)


def key_path(uri: KeyUri, setting: str) -> Path:
    """Return the path in a ``file:`` URI.

    Raises:
        KeyFileError: the home folder does not exist. The message names the setting, not its value.
    """
    try:
        return Path(uri.name.removeprefix("//")).expanduser()
    except RuntimeError:
        raise KeyFileError(f"{setting} names the home folder of a user who does not exist: fix the path") from None


def kms_keys_by_version(uri: KeyUri, setting: str) -> dict[int, str]:
    """Return version → key id of the token keys in an ``awskms:`` URI.

    Raises:
        KeyFileError: the URI is neither one key id nor a list of versions, or repeats a version or a key.
    """
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
