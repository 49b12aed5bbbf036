"""Key files: read only where nobody else can read them, made exclusively and atomically, never overwritten.

The file of the token keys is JSON: ``{"current": 1, "development": false, "keys": {"1": "<32 bytes in base64>"}}``.
The seal key is PEM, its private half in a file beside it that the pipeline never opens.
"""

import json
import os
import secrets
import stat
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loginpipe.errors import KeyFileError
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import TokenKeys, derive_field_keys

TOKEN_KEY_BYTES: Final = 32
SEAL_KEY_BITS: Final = 3072
VERSION_MOST: Final = 32_767
"""What the ``smallint`` of ``token_key_checks`` holds."""


def read_token_keys(path: Path) -> TokenKeys:
    """Read and derive the token keys in a file.

    Raises:
        KeyFileError: absent, readable by others, or not of the form above.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable("token key file", path, error) from None
    if mode & 0o077:
        raise KeyFileError(f"the token key file {path} has the mode {mode:04o}: run `chmod 600 {path}`")
    try:
        current, development, keys = _parsed(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise KeyFileError(f"{path} is no token key file: make one with `loginpipe keys generate`") from None
    if current not in keys or any(len(key) != TOKEN_KEY_BYTES for key in keys.values()):
        raise KeyFileError(f"{path}: every key must be {TOKEN_KEY_BYTES} bytes, and `current` the version of one")
    if min(keys) < 1 or max(keys) > VERSION_MOST:
        raise KeyFileError(f"{path}: versions of token keys go from 1 to {VERSION_MOST}")
    return TokenKeys(current, {version: derive_field_keys(key) for version, key in keys.items()}, development)


def read_seal_key(path: Path) -> SealKey:
    """Read the public half of a seal key.

    Raises:
        KeyFileError: absent, or no public RSA key of 3072 bits or more in PEM.
    """
    try:
        content = path.read_bytes()
        key = serialization.load_pem_public_key(content)
    except OSError as error:
        raise _unreadable("seal key file", path, error) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} holds no public key in PEM: is it the private half?") from None
    if b"PRIVATE KEY" in content:
        raise KeyFileError(f"{path} holds the private half too, which the pipeline may not have: take it out")
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < SEAL_KEY_BITS:
        raise KeyFileError(f"{path} must hold an RSA key of {SEAL_KEY_BITS} bits or more")
    return SealKey(key)


def generate_token_keys(path: Path, *, development: bool) -> None:
    """Make a token key of version 1 in a new file.

    Raises:
        KeyFileError: the file exists, or cannot be written.
    """
    key = b64encode(secrets.token_bytes(TOKEN_KEY_BYTES)).decode()
    content = {"current": 1, "development": development, "keys": {"1": key}}
    _create(path, (json.dumps(content, indent=2) + "\n").encode())


def generate_seal_key(public: Path) -> Path:
    """Make a seal key in two new files, and return the one of the private half.

    Raises:
        KeyFileError: one of the files exists, or cannot be written.
    """
    private = private_half(public)
    if public.exists() or public.is_symlink():
        raise _exists(public)
    key = rsa.generate_private_key(public_exponent=65537, key_size=SEAL_KEY_BITS)
    pem, no_encryption = serialization.Encoding.PEM, serialization.NoEncryption()
    _create(private, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_encryption))
    try:
        _create(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    except KeyFileError:
        private.unlink()
        raise
    return private


def private_half(public: Path) -> Path:
    """Return the file of the private half: ``seal_public.pem`` → ``seal_private.pem``."""
    return public.with_name(f"{public.stem.removesuffix('_public')}_private{public.suffix}")


def _parsed(content: bytes) -> tuple[int, bool, dict[int, bytes]]:
    document = json.loads(content)
    current, development = document["current"], document.get("development", False)
    versions = {text: int(text) for text in document["keys"] if text.isascii() and text.isdigit()}
    if (
        type(current) is not int
        or type(development) is not bool
        or len(set(versions.values())) != len(document["keys"])
    ):
        raise ValueError
    return current, development, {v: b64decode(document["keys"][text], validate=True) for text, v in versions.items()}


def _create(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600; it appears whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KeyFileError(f"the folder {path.parent} cannot be made ({error.strerror}): mend that") from None
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, fails where the name is taken.
            os.link(draft, path)
        finally:
            draft.unlink()
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written ({error.strerror}): mend that and try again") from None


def _exists(path: Path) -> KeyFileError:
    return KeyFileError(f"{path} exists, and keys are never overwritten: move it away if nothing was made with it")


def _unreadable(what: str, path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        f"the {what} {path} cannot be read ({error.strerror}): mend that, or see `loginpipe keys generate`"
    )
