"""Keep keys in files, the provider ``file:``. Failures are `KeyFileError`s.

New files appear as a whole, and never overwrite another. The token key file holds a document
(`loginpipe.masking.tokens.TokenKeyDocument`), and is read only if no other user can read it. The seal key is a PEM
file. Its private half is in a second file that the pipeline never opens.
"""

import fcntl
import os
import secrets
import stat
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from loginpipe.common.errors import KeyFileError
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
        raise _unreadable("seal key file", path, error) from None
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
        raise _exists(public)
    key = rsa.generate_private_key(public_exponent=65537, key_size=SEAL_KEY_BITS)
    create_private_file(private, encrypted_pem(key, passphrase) if passphrase else _private_bytes(key, Encoding.PEM))
    try:
        create_private_file(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except KeyFileError:
        private.unlink()
        raise
    return private


def _private_bytes(key: rsa.RSAPrivateKey, encoding: Encoding) -> bytes:
    return key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())


def private_half(public: Path) -> Path:
    """Return the path of the private half: ``seal_public.pem`` → ``seal_private.pem``."""
    return public.with_name(f"{public.stem.removesuffix('_public')}_private{public.suffix}")


def _document(path: Path) -> TokenKeyDocument:
    return parse_document(read_private_file(path, _WHAT), str(path))


def read_private_file(path: Path, what: str) -> bytes:
    """Return the content of a file that no other user can access."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(what, path, error) from None
    if mode & 0o077:
        raise KeyFileError(f"the {what} {path} has the mode {mode:04o}: run `chmod 600 {path}`")
    return content


def create_private_file(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600, which appears as a whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        folder = f"the folder {path.parent} cannot be made ({error.strerror})"
        raise KeyFileError(f"{folder}: fix the path or its permissions") from None
    try:
        try:
            _write(draft, content)
            # A link, unlike a rename, fails if the name is taken.
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise _unwritable(path, error) from None


def replace_private_file(path: Path, content: bytes) -> None:
    """Replace the content of a file as a whole or not at all. Owner and group stay; the mode becomes 0600.

    An interruption leaves the old file or the new one. Hold `exclusively` around reading and replacing.
    """
    path = path.resolve()
    # Always the same name, so that the next attempt removes what an interrupted one left.
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        try:
            before = path.stat()
            _write(draft, content)
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(draft, before.st_uid, before.st_gid)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None


@contextmanager
def exclusively(path: Path, what: str) -> Iterator[None]:
    """Lock a file from reading to replacing it, against other processes that use this lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(what, path, error) from None
    try:
        if not _locked(descriptor, path):
            raise KeyFileError(f"the {what} {path} is being changed by another process: see what it made of it")
        yield
    finally:
        os.close(descriptor)


def _exists(path: Path) -> KeyFileError:
    """Return the error for a file that would be overwritten."""
    return KeyFileError(f"{path} exists, and keys are never overwritten: move it away if nothing was made with it")


def _unreadable(what: str, path: Path, error: OSError) -> KeyFileError:
    """Return the error for a file that cannot be read."""
    return KeyFileError(
        f"the {what} {path} cannot be read ({error.strerror}): fix that, or make one with `loginpipe keys generate`"
    )


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"{path} cannot be written ({error.strerror}): fix that and try again")


def _locked(descriptor: int, path: Path) -> bool:
    """Lock a file until it is closed; return False if another process holds the lock or has replaced the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        raise _unwritable(path, error) from None


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # So that the rename survives a power loss.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The form of a private key with a passphrase: PKCS#8, PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC, which
# `cryptography` and OpenSSL read. `cryptography` writes only PBKDF2 of 2,048 rounds, which a graphics card tries
# millions of times a second. These are OWASP's parameters for 16 MiB, which OpenSSL allows: a try takes 0.25 seconds.
# N, r and p.
_SCRYPT_COST = (2**14, 8, 5)
_BLOCK_BYTES = 16
_LINE = 64

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
    salt, vector = secrets.token_bytes(16), secrets.token_bytes(_BLOCK_BYTES)
    derived = Scrypt(salt, 32, *_SCRYPT_COST).derive(passphrase.encode())
    encryptor = Cipher(algorithms.AES(derived), modes.CBC(vector)).encryptor()
    padder = PKCS7(8 * _BLOCK_BYTES).padder()
    padded = padder.update(_private_bytes(key, Encoding.DER)) + padder.finalize()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    derivation = _sequence(_SCRYPT, _sequence(_element(_OCTETS, salt), *map(_integer, _SCRYPT_COST)))
    encryption = _sequence(_AES_256_CBC, _element(_OCTETS, vector))
    algorithm = _sequence(_PBES2, _sequence(derivation, encryption))
    body = b64encode(_sequence(algorithm, _element(_OCTETS, ciphertext)))
    lines = [body[start : start + _LINE] for start in range(0, len(body), _LINE)]
    label = b"ENCRYPTED PRIVATE KEY-----"
    return b"\n".join([b"-----BEGIN " + label, *lines, b"-----END " + label, b""])


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
