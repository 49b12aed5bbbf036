"""Seal values so that only the holder of a private key can open them. The pipeline does not hold that key.

A data key of 256 bits seals up to 256 values with AES-256-GCM. It is then wrapped with an RSA public key (OAEP,
SHA-256) and forgotten. Values share a data key because a wrap costs a thousand times more than a seal. A counter is a
safe nonce because a data key is used in one call only. Plaintexts are padded to blocks of 32 bytes to hide their
lengths. The associated data binds each value to its field, subject and keys, so that swapped rows are detected.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from uuid import UUID, uuid4

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DATA_KEY_BYTES = 32
VALUES_PER_DATA_KEY = 256
PADDING_BLOCK = 32
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
"""The algorithm that AWS KMS calls ``RSAES_OAEP_SHA_256``."""


@dataclass(frozen=True)
class SealKey:
    """A public key that wraps data keys."""

    public_key: rsa.RSAPublicKey = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key's DER form (SubjectPublicKeyInfo), in hex."""
        der = self.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return sha256(der).hexdigest()


@dataclass(frozen=True)
class WrappedDataKey:
    """A data key, wrapped for one recipient. `recipient` is the fingerprint of its public key."""

    data_key_id: UUID
    recipient: str
    wrapped_key: bytes = field(repr=False)


@dataclass(frozen=True)
class SealedValue:
    """A value sealed with a data key. The subject is the token or the message id that the value belongs to."""

    subject: str
    field_name: str
    data_key_id: UUID
    position: int
    ciphertext: bytes = field(repr=False)


@dataclass(frozen=True)
class SealedBlock:
    """The values of one field that one data key sealed, column by column because there are many."""

    data_key_id: UUID
    field_name: str
    subjects: Sequence[str]
    positions: Sequence[int]
    ciphertexts: Sequence[bytes] = field(repr=False)

    def only(self, subjects: Collection[str]) -> "SealedBlock":
        """Return the block with the values of these subjects only."""
        kept = [place for place, subject in enumerate(self.subjects) if subject in subjects]
        return replace(
            self,
            subjects=[self.subjects[place] for place in kept],
            positions=[self.positions[place] for place in kept],
            ciphertexts=[self.ciphertexts[place] for place in kept],
        )


@dataclass(frozen=True)
class Sealed:
    """The result of `seal`: the values in their original order, and every data key they need, wrapped."""

    data_keys: Sequence[WrappedDataKey] = ()
    blocks: Sequence[SealedBlock] = ()

    def __len__(self) -> int:
        return sum(len(block.subjects) for block in self.blocks)

    @property
    def values(self) -> list[SealedValue]:
        """The values one by one."""
        return [
            SealedValue(subject, block.field_name, block.data_key_id, position, ciphertext)
            for block in self.blocks
            for subject, position, ciphertext in zip(block.subjects, block.positions, block.ciphertexts, strict=True)
        ]


def seal(items: Sequence[tuple[str, bytes]], field_name: str, recipients: Sequence[SealKey]) -> Sealed:
    """Seal values of one field (``ip``, ``device_id``, ``body`` or ``extras``), each with its subject.

    The private half of any one of the recipients' public keys opens them. Without recipients, sealing is off and the
    result is empty.
    """
    if not items or not recipients:
        return Sealed()
    data_keys: list[WrappedDataKey] = []
    blocks: list[SealedBlock] = []
    fingerprints = [recipient.fingerprint for recipient in recipients]
    for start in range(0, len(items), VALUES_PER_DATA_KEY):
        data_key_id, data_key = uuid4(), secrets.token_bytes(DATA_KEY_BYTES)
        encrypt = AESGCM(data_key).encrypt
        data_keys += [
            WrappedDataKey(data_key_id, fingerprint, recipient.public_key.encrypt(data_key, OAEP))
            for fingerprint, recipient in zip(fingerprints, recipients, strict=True)
        ]
        before, after = _around_the_subject(field_name, data_key_id, fingerprints)
        of_key = items[start : start + VALUES_PER_DATA_KEY]
        ciphertexts = [
            encrypt(number, pad(plaintext), (before + subject + after).encode())
            for number, (subject, plaintext) in zip(_NONCES, of_key, strict=False)
        ]
        subjects = [subject for subject, _ in of_key]
        blocks.append(SealedBlock(data_key_id, field_name, subjects, range(len(of_key)), ciphertexts))
    return Sealed(data_keys, blocks)


def nonce(position: int) -> bytes:
    """Return the 96-bit nonce of a value: its position among the values of its data key."""
    return position.to_bytes(12, "big")


_NONCES = tuple(map(nonce, range(VALUES_PER_DATA_KEY)))


def pad(plaintext: bytes) -> bytes:
    """Pad to a multiple of 32 bytes as in ISO/IEC 7816-4: one byte 0x80, then zeros."""
    return (plaintext + b"\x80").ljust((len(plaintext) // PADDING_BLOCK + 1) * PADDING_BLOCK, b"\x00")


def unpad(padded: bytes) -> bytes:
    """Undo `pad`. The input is authenticated, so the padding is not checked."""
    return padded.rstrip(b"\x00")[:-1]


def associated_data(field_name: str, subject: str, data_key_id: UUID, recipients: Sequence[str]) -> bytes:
    """Return the data that a sealed value is bound to. No part may contain the separator, a NUL."""
    before, after = _around_the_subject(field_name, data_key_id, recipients)
    return (before + subject + after).encode()


def _around_the_subject(field_name: str, data_key_id: UUID, recipients: Sequence[str]) -> tuple[str, str]:
    """Return the parts of `associated_data` around the subject, which are equal for all values of a data key."""
    after = ("", str(data_key_id), *sorted(recipients))
    return f"loginpipe.seal.v1\x00{field_name}\x00", "\x00".join(after)
