"""Keep keys in files, the provider ``file:``. Failures are `KeyFileError`s.

The token key file holds a document (`loginpipe.masking.tokens.TokenKeyDocument`), and is read only if no other user can
read it. The seal key is a PEM file. Its private half is in a second file that the pipeline never opens.
"""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.encrypted_pem import encrypted_pem
from loginpipe.masking.private_files import (
    already_there,
    create_private_file,
    exclusively,
    read_private_file,
    replace_private_file,
    unreadable,
)
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import TokenKeyDocument, TokenKeys, new_document, parse_document, rotated

SEAL_KEY_BITS = 3072

_WHAT = "token key file"


def read_token_keys(path: Path) -> TokenKeys:
    """Read a token key file and derive its keys."""
    return _document(path).derived()


def read_seal_key(path: Path) -> SealKey:
    """Read the public half of a seal key."""
    try:
        content = path.read_bytes()
        key = serialization.load_pem_public_key(content)
    except OSError as error:
        raise unreadable("seal key file", path, error) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} holds no public key in PEM: is it the private half?") from None
    if b"PRIVATE KEY" in content:
        raise KeyFileError(f"{path} holds the private half too, which the pipeline may not have: take it out")
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < SEAL_KEY_BITS:
        raise KeyFileError(f"{path} must hold an RSA key of {SEAL_KEY_BITS} bits or more")
    return SealKey(key)


def read_salt(path: Path) -> bytes:
    """Read the salt of an older scheme: the file's content without final line breaks."""
    return read_private_file(path, "salt file").rstrip(b"\r\n")


def generate_token_keys(path: Path, *, development: bool) -> None:
    """Create a file with a new token key of version 1."""
    create_private_file(path, new_document(development=development).text().encode())


def rotate_token_keys(path: Path) -> TokenKeys:
    """Add a new version to a file and make it the current one. An interruption leaves the old file intact."""
    with exclusively(path, _WHAT):
        document = rotated(_document(path), str(path))
        replace_private_file(path, document.text().encode())
    return document.derived()


def generate_seal_key(public: Path, passphrase: str | None = None) -> Path:
    """Create a seal key in two new files, and return the path of the private half."""
    private = private_half(public)
    if public.exists() or public.is_symlink():
        raise already_there(public)
    key = rsa.generate_private_key(public_exponent=65537, key_size=SEAL_KEY_BITS)
    content = (
        encrypted_pem(key, passphrase)
        if passphrase
        else key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    create_private_file(private, content)
    try:
        create_private_file(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except KeyFileError:
        private.unlink()
        raise
    return private


def private_half(public: Path) -> Path:
    """Return the path of the private half: ``seal_public.pem`` → ``seal_private.pem``."""
    return public.with_name(f"{public.stem.removesuffix('_public')}_private{public.suffix}")


def _document(path: Path) -> TokenKeyDocument:
    return parse_document(read_private_file(path, _WHAT), str(path))
