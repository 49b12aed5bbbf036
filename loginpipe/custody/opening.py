"""Open sealed values with private keys that the pipeline never has. Return a value only if it belongs to its token."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from loginpipe.common.errors import OpeningError
from loginpipe.custody.access import Released, is_message_id
from loginpipe.custody.token_checks import OF_MESSAGES, TokenChecks
from loginpipe.masking.sealing import (
    DATA_KEY_BYTES,
    OAEP,
    SealedValue,
    WrappedDataKey,
    associated_data,
    nonce,
    unpad,
)

PRIVATE_KEY_OPTION = "--private-key"


class Problem(StrEnum):
    """Why a value does not open or cannot be trusted."""

    OTHER_RECIPIENT = "other_recipient"
    """The data key is wrapped for other keys than those given. Nothing is wrong with the value."""
    NO_DATA_KEY = "no_data_key"
    """The vault has no data key: it was lost, or the value was planted."""
    CHANGED = "changed"
    """The value, its data key or its associated data was changed after sealing."""
    PLANTED = "planted"
    """The value opens but gives another token than the one it is stored under: it was made by hand."""
    ALIAS_PLANTED = "alias_planted"
    """The value belongs to the alias, but not to this token."""
    UNCHECKED = "unchecked"
    """The value opens, but no given key can compare it with its token."""


DISCARDED = frozenset({Problem.NO_DATA_KEY, Problem.CHANGED, Problem.PLANTED})
"""Problems of values that no key can ever recover."""


def unwrap(data_key: WrappedDataKey, private_key: rsa.RSAPrivateKey) -> bytes:
    """Return the 32 bytes of a data key. Raise as `require_data_key`."""
    try:
        key = private_key.decrypt(data_key.wrapped_key, OAEP)
    except ValueError:
        key = b""
    return require_data_key(data_key, key)


def require_data_key(data_key: WrappedDataKey, key: bytes) -> bytes:
    """Return an unwrapped data key if its length is right.

    Raises:
        OpeningError: `Problem.CHANGED`: it was changed, or wrapped for another key than its recipient.
    """
    if len(key) == DATA_KEY_BYTES:
        return key
    raise OpeningError(
        f"data key {data_key.data_key_id} does not unwrap with its key {data_key.recipient[:16]}…: it "
        "was changed in the vault, see docs/security.md",
        Problem.CHANGED,
    )


def open_value(value: SealedValue, data_key: bytes, recipients: Sequence[str]) -> bytes:
    """Return the plaintext of a sealed value whose data key was wrapped for exactly these recipients.

    Raises:
        OpeningError: `Problem.CHANGED`. AES-GCM does not show whether value, key, field, subject or position changed.
    """
    bound = associated_data(value.field_name, value.subject, value.data_key_id, recipients)
    try:
        return unpad(AESGCM(data_key).decrypt(nonce(value.position), value.ciphertext, bound))
    except (InvalidTag, ValueError, OverflowError):
        raise OpeningError(
            f"the sealed {value.field_name} of {value.subject} cannot be opened: it was altered, or sealed with "
            "another key; see docs/security.md",
            Problem.CHANGED,
            value.subject,
        ) from None


@dataclass(frozen=True)
class Opener:
    """One or more private keys that unwrap data keys, by the fingerprint of their public half."""

    _unwrap: Mapping[str, Callable[[WrappedDataKey], bytes]] = field(repr=False)

    @property
    def fingerprints(self) -> frozenset[str]:
        """The recipients whose data keys can be unwrapped."""
        return frozenset(self._unwrap)

    def only(self, fingerprint: str) -> "Opener":
        """Return an opener with one of the keys."""
        return Opener({fingerprint: self._unwrap[fingerprint]})

    def unwrap(self, data_keys: Sequence[WrappedDataKey]) -> bytes:
        """Return the 32 bytes of a data key, given as wrapped for each recipient.

        Raises:
            OpeningError: `Problem.OTHER_RECIPIENT` or `Problem.CHANGED`.
            KeyFileError: KMS is unreachable or refuses.
        """
        for data_key in data_keys:
            if data_key.recipient in self._unwrap:
                return self._unwrap[data_key.recipient](data_key)
        recipients = " or ".join(f"{data_key.recipient[:16]}…" for data_key in data_keys)
        raise OpeningError(
            f"data key {data_keys[0].data_key_id} does not unwrap: it needs the private key of {recipients}: "
            f"specify it with {PRIVATE_KEY_OPTION}",
            Problem.OTHER_RECIPIENT,
        )


class DataKeys:
    """A cache of unwrapped data keys. Drop it after the call that needs it."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._found: dict[UUID, bytes | OpeningError] = {}

    def of(self, released: Released) -> bytes:
        """Return the data key of a value. Raise as `Opener.unwrap`, or `Problem.NO_DATA_KEY`."""
        key_id = released.value.data_key_id
        if not released.data_keys:
            raise OpeningError(
                f"the sealed {released.value.field_name} of {released.value.subject} has no data key and "
                "cannot be opened: the key was lost, or the value was planted; see docs/security.md",
                Problem.NO_DATA_KEY,
                released.value.subject,
            )
        if key_id not in self._found:
            try:
                self._found[key_id] = self._opener.unwrap(released.data_keys)
            except OpeningError as error:
                self._found[key_id] = error
        found = self._found[key_id]
        if isinstance(found, OpeningError):
            raise OpeningError(str(found), found.problem, released.value.subject)
        return found


@dataclass(frozen=True)
class Opened:
    """A value in clear. `checked` is True if the value gives its token, and None if no given key can check this."""

    subject: str
    field_name: str
    plaintext: bytes = field(repr=False)
    checked: bool | None


@dataclass(frozen=True)
class Opening:
    """The opened values of a release by subject, and the errors of the others."""

    opened: dict[str, Opened]
    refused: list[OpeningError]

    def require_recipient(self) -> None:
        """Raise the first error, if any, of a value that is sealed for other private keys."""
        for error in self.refused:
            if error.problem == Problem.OTHER_RECIPIENT:
                raise error


def open_released(released: Sequence[Released], data_keys: DataKeys, checks: TokenChecks) -> Opening:
    """Open each value once, independently of the others.

    The errors have any `Problem` except `UNCHECKED`, which the caller decides on. KeyFileError is raised if KMS is
    unreachable or refuses.
    """
    opened, refused = {}, []
    for each in {each.value.subject: each for each in released}.values():
        try:
            opened[each.value.subject] = _opened(each, data_keys.of(each), checks)
        except OpeningError as error:
            refused.append(error)
    return Opening(opened, refused)


def planted(subject: str, field_name: str) -> OpeningError:
    """Return the error for a value that gives another token."""
    return OpeningError(
        f"the sealed {field_name} of {subject} was planted: its token is another one; see docs/security.md",
        Problem.PLANTED,
        subject,
    )


def _opened(released: Released, data_key: bytes, checks: TokenChecks) -> Opened:
    value = released.value
    plaintext = open_value(value, data_key, released.recipients)
    # A value under a message id belongs to that message. Any other must give its token, for every field name.
    if value.field_name in OF_MESSAGES and is_message_id(value.subject):
        return Opened(value.subject, value.field_name, plaintext, checked=None)
    fits = checks.fits(value.subject, value.field_name, plaintext)
    if fits is False:
        raise planted(value.subject, value.field_name)
    return Opened(value.subject, value.field_name, plaintext, checked=fits)
