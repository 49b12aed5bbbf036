"""Open what was sealed, with private keys that the pipeline never has; each value only if it is its token's."""

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
from loginpipe.masking.sealing import DATA_KEY_BYTES, OAEP, SealedValue, WrappedDataKey, associated_data, nonce, unpad

PRIVATE_KEY_OPTION = "--private-key"


class Problem(StrEnum):
    """What is wrong with a value that does not open, or may not be believed."""

    OTHER_RECIPIENT = "other_recipient"
    """Its data key was wrapped for other keys than the ones at hand: nothing is wrong with it."""
    NO_DATA_KEY = "no_data_key"
    """The vault has no data key for it: that was lost, or the value was planted."""
    CHANGED = "changed"
    """It, its data key or what it is bound to is not what was sealed."""
    PLANTED = "planted"
    """It opens, and gives another token than the one it is stored under: it was made by hand."""
    ALIAS_PLANTED = "alias_planted"
    """It is a good value of the alias, which is none of this token's."""
    UNCHECKED = "unchecked"
    """It opens, and the key that would show whether it is the token's is not at hand."""


DISCARDED = frozenset({Problem.NO_DATA_KEY, Problem.CHANGED, Problem.PLANTED})
"""Problems of values that nothing can be recovered from, whoever tries."""


def unwrap(data_key: WrappedDataKey, private_key: rsa.RSAPrivateKey) -> bytes:
    """Return the 32 bytes of a data key.

    Raises:
        OpeningError: `Problem.CHANGED`: it was changed, or wrapped for another key than it says.
    """
    try:
        key = private_key.decrypt(data_key.wrapped_key, OAEP)
    except ValueError:
        key = b""
    return require_data_key(data_key, key)


def require_data_key(data_key: WrappedDataKey, key: bytes) -> bytes:
    """Return what a data key was unwrapped to, if that is one.

    Raises:
        OpeningError: `Problem.CHANGED`: it is not of a data key's length.
    """
    if len(key) == DATA_KEY_BYTES:
        return key
    raise OpeningError(
        f"data key {data_key.data_key_id} does not unwrap with its key {data_key.recipient[:16]}…: it "
        "was changed in the vault, see docs/security.md",
        Problem.CHANGED,
    )


def open_value(value: SealedValue, data_key: bytes, recipients: Sequence[str]) -> bytes:
    """Return the plaintext of a sealed value, whose data key was wrapped for exactly these recipients.

    Raises:
        OpeningError: `Problem.CHANGED`. AES-GCM does not tell whether the value, its key, field, subject or place was.
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
    """What opens data keys: one private key or several, each known by the fingerprint of its public half."""

    _unwrap: Mapping[str, Callable[[WrappedDataKey], bytes]] = field(repr=False)

    @property
    def fingerprints(self) -> frozenset[str]:
        """The recipients whose data keys open."""
        return frozenset(self._unwrap)

    def only(self, fingerprint: str) -> "Opener":
        """Return one of the keys alone."""
        return Opener({fingerprint: self._unwrap[fingerprint]})

    def unwrap(self, data_keys: Sequence[WrappedDataKey]) -> bytes:
        """Return the 32 bytes of a data key, which was wrapped for each of its recipients.

        Raises:
            OpeningError: `Problem.OTHER_RECIPIENT` or `Problem.CHANGED`.
            KeyFileError: KMS is unreachable, or refuses.
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
    """Data keys, unwrapped once each. To be dropped with the call that needed them."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._found: dict[UUID, bytes | OpeningError] = {}

    def of(self, released: Released) -> bytes:
        """Return the data key of a value.

        Raises:
            OpeningError, KeyFileError: as `Opener.unwrap`.
        """
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
    """A value in clear, with what it was sealed for.

    Attributes:
        checked: it gives the token that it was stored under; None where no key at hand can tell.
    """

    subject: str
    field_name: str
    plaintext: bytes = field(repr=False)
    checked: bool | None


@dataclass(frozen=True)
class Opening:
    """What became of a release: values in clear by subject, and the errors of those that do not open."""

    opened: dict[str, Opened]
    refused: list[OpeningError]


def open_released(released: Sequence[Released], data_keys: DataKeys, checks: TokenChecks) -> Opening:
    """Open values, each independently of the others, and once, whatever it was found for.

    Returns:
        Refused are values with one of the problems of `Problem`, but `UNCHECKED`, which the caller has to decide on.

    Raises:
        KeyFileError: KMS is unreachable, or refuses.
    """
    opened, refused = {}, []
    for each in {each.value.subject: each for each in released}.values():
        try:
            opened[each.value.subject] = _opened(each, data_keys.of(each), checks)
        except OpeningError as error:
            refused.append(error)
    return Opening(opened, refused)


def planted(subject: str, field_name: str) -> OpeningError:
    """Return the error of a value that gives another token."""
    return OpeningError(
        f"the sealed {field_name} of {subject} was planted: its token is another one; see docs/security.md",
        Problem.PLANTED,
        subject,
    )


def _opened(released: Released, data_key: bytes, checks: TokenChecks) -> Opened:
    value = released.value
    plaintext = open_value(value, data_key, released.recipients)
    # What is stored under a message id is of that message; anything else must give its token, whatever field it claims.
    if value.field_name in OF_MESSAGES and is_message_id(value.subject):
        return Opened(value.subject, value.field_name, plaintext, checked=None)
    fits = checks.fits(value.subject, value.field_name, plaintext)
    if fits is False:
        raise planted(value.subject, value.field_name)
    return Opened(value.subject, value.field_name, plaintext, checked=fits)
