"""Load the private keys that open sealed values.

They come from a file, or stay in AWS KMS, which decrypts but never returns the key.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loginpipe.common.errors import KeyFileError, PassphraseError
from loginpipe.custody.opening import PRIVATE_KEY_OPTION, Opener, require_data_key, unwrap
from loginpipe.masking.aws_keys import kms_client, kms_errors, read_kms_seal_key
from loginpipe.masking.key_files import private_half
from loginpipe.masking.keys import FILE, KMS, SEAL_KEY, KeyUri, key_path, key_uri, seal_key_uris
from loginpipe.masking.private_files import read_private_file
from loginpipe.masking.sealing import SealKey, WrappedDataKey

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

AskPassphrase = Callable[[Path], str]
"""Asks for the passphrase of a file. Called only if its key has one."""


def load_opener(uris: Sequence[str], *, production: bool, passphrase: AskPassphrase) -> Opener:
    """Load private keys by their ``file:`` or ``awskms:`` URIs or plain paths, and ask for passphrases.

    Raises:
        KeyFileError: a key is absent, readable by others, or no private RSA key; or KMS refuses.
        PassphraseError: the passphrase is wrong.
    """
    return Opener(dict(_load(uri, production=production, passphrase=passphrase) for uri in uris))


def private_uris(seal_key: str) -> list[str]:
    """Return the default locations of the private halves of the keys in ``LOGINPIPE_SEAL_KEY``.

    For ``file:`` this is the file next to the public one, if it exists; for ``awskms:`` the same key.
    Raise KeyFileError if there is none.
    """
    found, absent = [], []
    for uri in seal_key_uris(seal_key):
        path = private_half(key_path(uri, SEAL_KEY)) if uri.provider == FILE else None
        if path is None:
            found.append(str(uri))
        elif path.exists():
            found.append(f"{FILE}:{path}")
        else:
            absent.append(path)
    if found:
        return found
    if absent:
        raise KeyFileError(f"there is no private key at {absent[0]}: specify its place with {PRIVATE_KEY_OPTION}")
    raise KeyFileError(f"{SEAL_KEY} is off: specify the private key of older values with {PRIVATE_KEY_OPTION}")


def _load(text: str, *, production: bool, passphrase: AskPassphrase) -> tuple[str, Callable[[WrappedDataKey], bytes]]:
    named = text.startswith((f"{FILE}:", f"{KMS}:"))
    uri = key_uri(text, PRIVATE_KEY_OPTION, (FILE, KMS)) if named else KeyUri(FILE, text)
    if uri.provider == FILE:
        key = _private_key(key_path(uri, PRIVATE_KEY_OPTION), passphrase)
        return SealKey(key.public_key()).fingerprint, partial(unwrap, private_key=key)
    client = kms_client(production=production)
    return read_kms_seal_key(client, uri.name).fingerprint, partial(_kms_unwrap, client, uri.name)


def _private_key(path: Path, passphrase: AskPassphrase) -> rsa.RSAPrivateKey:
    content = read_private_file(path, "private key file")
    try:
        try:
            key: object = serialization.load_pem_private_key(content, password=None)
        except TypeError:
            key = _behind_passphrase(path, content, passphrase(path))
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} has no private key in PEM: check that it is not the public half") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KeyFileError(f"{path} has no RSA key: specify the private half of a seal key")
    return key


def _behind_passphrase(path: Path, content: bytes, passphrase: str) -> object:
    wrong = PassphraseError(f"the passphrase is wrong for {path}: type it again")
    if not passphrase:
        raise wrong
    try:
        return serialization.load_pem_private_key(content, password=passphrase.encode())
    except ValueError:
        raise wrong from None


def _kms_unwrap(client: "KMSClient", key_id: str, data_key: WrappedDataKey) -> bytes:
    with kms_errors(key_id, "kms:Decrypt"):
        try:
            answer = client.decrypt(
                KeyId=key_id, CiphertextBlob=data_key.wrapped_key, EncryptionAlgorithm="RSAES_OAEP_SHA_256"
            )
            key = answer["Plaintext"]
        except client.exceptions.InvalidCiphertextException:
            key = b""
    return require_data_key(data_key, key)
