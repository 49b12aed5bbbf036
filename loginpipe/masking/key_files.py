"""Keep keys in files, the provider ``file:``. New files appear as a whole, and never overwrite another.

The token key file holds a document (`loginpipe.masking.token_key_document`), and is read only if no other user can
read it. The seal key is a PEM file. Its private half is in a second file that the pipeline never opens.
"""

import secrets
from base64 import b64encode
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.private_files import (
    create_private_file,
    exclusively,
    exists,
    read_private_file,
    replace_private_file,
    unreadable,
)
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.token_key_document import TokenKeyDocument, new_document, parse_document, rotated
from loginpipe.masking.tokens import TokenKeys

SEAL_KEY_BITS = 3072

_WHAT = "token key file"


def read_token_keys(path: Path) -> TokenKeys:
    """Read a token key file and derive its keys.

    Raises:
        KeyFileError: the file is absent, readable by others, or holds no token key document.
    """
    return _document(path).derived()


def read_seal_key(path: Path) -> SealKey:
    """Read the public half of a seal key.

    Raises:
        KeyFileError: the file is absent, or holds no public RSA key of 3072 bits or more in PEM.
    """
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
    """Read the salt of an older scheme: the file's content without final line breaks.

    Raises:
        KeyFileError: the file is absent or readable by others.
    """
    return read_private_file(path, "salt file").rstrip(b"\r\n")


def generate_token_keys(path: Path, *, development: bool) -> None:
    """Create a file with a new token key of version 1.

    Raises:
        KeyFileError: the file exists or cannot be written.
    """
    create_private_file(path, new_document(development=development).text().encode())


def rotate_token_keys(path: Path) -> TokenKeys:
    """Add a new version to a file and make it the current one. An interruption leaves the old file intact.

    Raises:
        KeyFileError: the file cannot be read or written, or another process is changing it.
    """
    with exclusively(path, _WHAT):
        document = rotated(_document(path), str(path))
        replace_private_file(path, document.text().encode())
    return document.derived()


def generate_seal_key(public: Path, passphrase: str | None = None) -> Path:
    """Create a seal key in two new files, and return the path of the private half.

    Raises:
        KeyFileError: one of the files exists or cannot be written.
    """
    private = private_half(public)
    if public.exists() or public.is_symlink():
        raise exists(public)
    key = rsa.generate_private_key(public_exponent=65537, key_size=SEAL_KEY_BITS)
    pem, no_encryption = serialization.Encoding.PEM, serialization.NoEncryption()
    create_private_file(
        private,
        encrypted_pem(key, passphrase)
        if passphrase
        else key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_encryption),
    )
    try:
        create_private_file(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    except KeyFileError:
        private.unlink()
        raise
    return private


def private_half(public: Path) -> Path:
    """Return the path of the private half: ``seal_public.pem`` → ``seal_private.pem``."""
    return public.with_name(f"{public.stem.removesuffix('_public')}_private{public.suffix}")


def _document(path: Path) -> TokenKeyDocument:
    return parse_document(read_private_file(path, _WHAT), str(path))


# The form of a private key with a passphrase: PKCS#8, PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC, which
# `cryptography` and OpenSSL read. `cryptography` writes only PBKDF2 of 2,048 rounds, which a graphics card tries
# millions of times a second. These are OWASP's parameters for 16 MiB, which OpenSSL allows: a try takes 0.25 seconds.
_SALT_BYTES = 16
_SCRYPT_N = 2**14
_SCRYPT_R = 8
_SCRYPT_P = 5
_KEY_BYTES = 32
_BLOCK_BYTES = 16
_LINE = 64
_BEGIN = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_END = b"-----END ENCRYPTED PRIVATE KEY-----"

# Object identifier 1.2.840.113549.1.5.13 in DER.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
# 1.3.6.1.4.1.11591.4.11
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
# 2.16.840.1.101.3.4.1.42
_AES_256_CBC = bytes.fromhex("060960864801650304012a")

_INTEGER = 0x02
_OCTETS = 0x04
_SEQUENCE = 0x30
_SHORT_LENGTH = 0x80


def encrypted_pem(key: rsa.RSAPrivateKey, passphrase: str) -> bytes:
    """Return a private key in PEM that only the passphrase (as UTF-8) opens."""
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    salt, vector = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_BLOCK_BYTES)
    derived = Scrypt(salt, _KEY_BYTES, _SCRYPT_N, _SCRYPT_R, _SCRYPT_P).derive(passphrase.encode())
    encryptor = Cipher(algorithms.AES(derived), modes.CBC(vector)).encryptor()
    padder = PKCS7(8 * _BLOCK_BYTES).padder()
    ciphertext = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    cost = (_integer(_SCRYPT_N), _integer(_SCRYPT_R), _integer(_SCRYPT_P))
    derivation = _sequence(_SCRYPT, _sequence(_element(_OCTETS, salt), *cost))
    encryption = _sequence(_AES_256_CBC, _element(_OCTETS, vector))
    algorithm = _sequence(_PBES2, _sequence(derivation, encryption))
    body = b64encode(_sequence(algorithm, _element(_OCTETS, ciphertext)))
    lines = [body[start : start + _LINE] for start in range(0, len(body), _LINE)]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def _sequence(*parts: bytes) -> bytes:
    return _element(_SEQUENCE, b"".join(parts))


def _integer(value: int) -> bytes:
    return _element(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < _SHORT_LENGTH:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _SHORT_LENGTH | len(length))) + length + content
