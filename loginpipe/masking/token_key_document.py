"""Read and write token keys as a JSON document, kept in a file or a secret. Pure: it does no I/O.

``{"current": 1, "development": false, "keys": {"1": "<32 bytes in base64>"}}``
"""

import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.tokens import TokenKeys, derive_field_keys

TOKEN_KEY_BYTES = 32
MAX_VERSION = 32_767
"""The maximum of the ``smallint`` column in ``token_key_checks``."""


@dataclass(frozen=True)
class TokenKeyDocument:
    """Token keys by version.

    Attributes:
        current: the version that makes new tokens.
        keys: version → 32 bytes.
        development: True if production must refuse the keys.
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
    """Return the document with one more version, which becomes the current one. The other versions stay.

    Raises:
        KeyFileError: the highest possible version is in use.
    """
    version = max(document.keys) + 1
    if version > MAX_VERSION:
        raise KeyFileError(f"{source} holds the last version that there can be, {MAX_VERSION}")
    keys = {**document.keys, version: secrets.token_bytes(TOKEN_KEY_BYTES)}
    return replace(document, current=version, keys=keys)


def united(current: TokenKeyDocument, previous: TokenKeyDocument, source: str) -> TokenKeyDocument:
    """Return the keys of two documents. The current version is that of `current`.

    Raises:
        KeyFileError: the documents hold different keys for the same version.
    """
    differing = [v for v, key in previous.keys.items() if current.keys.get(v, key) != key]
    if differing:
        raise KeyFileError(
            f"{source}: AWSCURRENT and AWSPREVIOUS hold two keys under version {min(differing)}: put the right one as "
            "a new value twice, so that both stages hold it"
        )
    return replace(
        current,
        keys={**previous.keys, **current.keys},
        development=current.development or previous.development,
    )


def _parsed(content: str | bytes) -> TokenKeyDocument:
    document = json.loads(content)
    current, development = document["current"], document.get("development", False)
    versions = {text: int(text) for text in document["keys"] if text.isascii() and text.isdigit()}
    if (
        type(current) is not int
        or type(development) is not bool
        or len(set(versions.values())) != len(document["keys"])
    ):
        raise ValueError
    keys = {version: b64decode(document["keys"][text], validate=True) for text, version in versions.items()}
    return TokenKeyDocument(current, keys, development)
