"""Write a private key with a passphrase: PKCS#8, PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC.

`cryptography` and OpenSSL read this form. What `cryptography` writes is PBKDF2 of 2,048 rounds, which a graphics card
tries millions of times a second. With OWASP's parameters for 16 MiB, which OpenSSL allows, a try takes 0.25 seconds.
"""

import secrets
from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

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
    padded = padder.update(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())) + padder.finalize()
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
