"""Sealing: values that only the holder of a private key can open again. The pipeline is not that holder.

A data key of 256 bits seals up to 256 values with AES-256-GCM, is wrapped with an RSA public key (OAEP, SHA-256) and
forgotten. One wrap is a thousand times dearer than one seal, hence the sharing; the counter as nonce is safe because
a data key lives in one call only. Plaintexts are padded to blocks of 32 bytes, so that lengths tell little, and the
associated data binds each value to its field, its subject and its keys, so that rows cannot be swapped unnoticed.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid4

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DATA_KEY_BYTES: Final = 32
VALUES_PER_DATA_KEY: Final = 256
PADDING_BLOCK: Final = 32
OAEP: Final = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
"""AWS KMS calls it ``RSAES_OAEP_SHA_256``."""


@dataclass(frozen=True)
class SealKey:
    """A public key that data keys are wrapped with."""

    public_key: rsa.RSAPublicKey = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key's DER form (SubjectPublicKeyInfo), in hex."""
        der = self.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return sha256(der).hexdigest()


@dataclass(frozen=True)
class WrappedDataKey:
    """A data key, wrapped for one recipient: the fingerprint of that one's public key."""

    data_key_id: UUID
    recipient: str
    wrapped_key: bytes = field(repr=False)


@dataclass(frozen=True)
class SealedValue:
    """A value sealed under a data key. Subject: the token or the message id that the value belongs to."""

    subject: str
    field_name: str
    data_key_id: UUID
    position: int
    ciphertext: bytes = field(repr=False)


@dataclass(frozen=True)
class Sealed:
    """What one call of `seal` made: the values, in the order given, and every data key they need, wrapped."""

    data_keys: Sequence[WrappedDataKey] = ()
    values: Sequence[SealedValue] = ()


def seal(items: Sequence[tuple[str, bytes]], field_name: str, recipients: Sequence[SealKey]) -> Sealed:
    """Seal values of one field, each with its subject, for every recipient.

    Args:
        items: subject and plaintext of each value.
        field_name: what the values are: ``ip``, ``device_id`` or ``body``.
        recipients: the public keys, any one of whose private halves opens the values.
    """
    data_keys: list[WrappedDataKey] = []
    values: list[SealedValue] = []
    fingerprints = [recipient.fingerprint for recipient in recipients]
    for start in range(0, len(items), VALUES_PER_DATA_KEY):
        data_key_id, data_key = uuid4(), secrets.token_bytes(DATA_KEY_BYTES)
        cipher = AESGCM(data_key)
        data_keys += [
            WrappedDataKey(data_key_id, fingerprint, recipient.public_key.encrypt(data_key, OAEP))
            for fingerprint, recipient in zip(fingerprints, recipients, strict=True)
        ]
        for position, (subject, plaintext) in enumerate(items[start : start + VALUES_PER_DATA_KEY]):
            bound = associated_data(field_name, subject, data_key_id, fingerprints)
            ciphertext = cipher.encrypt(nonce(position), pad(plaintext), bound)
            values.append(SealedValue(subject, field_name, data_key_id, position, ciphertext))
    return Sealed(data_keys, values)


def nonce(position: int) -> bytes:
    """Return the 96-bit nonce of a value: its position under its data key."""
    return position.to_bytes(12, "big")


def pad(plaintext: bytes) -> bytes:
    """Pad to a multiple of 32 bytes as in ISO/IEC 7816-4: one byte 0x80, then zeros."""
    padded = plaintext + b"\x80"
    return padded + bytes(-len(padded) % PADDING_BLOCK)


def unpad(padded: bytes) -> bytes:
    """Undo `pad`. Its input was authenticated, so it is trusted to be padded."""
    return padded.rstrip(b"\x00")[:-1]


def associated_data(field_name: str, subject: str, data_key_id: UUID, recipients: Sequence[str]) -> bytes:
    """Return what a sealed value is bound to; no part may contain the separator, a NUL."""
    return "\x00".join(("loginpipe.seal.v1", field_name, subject, str(data_key_id), *sorted(recipients))).encode()
