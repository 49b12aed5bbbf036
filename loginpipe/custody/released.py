"""Released values opened, each one only if it is what its token stands for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from loginpipe.common.errors import OpeningError
from loginpipe.custody.access import Released
from loginpipe.custody.diagnosis import Unwrapped, diagnosed
from loginpipe.custody.opening import Fault
from loginpipe.custody.private_keys import Opener, for_another_recipient
from loginpipe.custody.token_checks import BODY, TokenChecks, is_message_id


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


class DataKeys:
    """Data keys, unwrapped once each. To be dropped with the call that needed them."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._found: dict[UUID, bytes | OpeningError] = {}

    def of(self, released: Released) -> bytes:
        """Return the data key of a value.

        Raises:
            OpeningError: `Fault.OTHER_RECIPIENT` or `Fault.DATA_KEY_CHANGED`.
            KeyFileError: KMS is out of reach, or refuses.
        """
        key_id = released.value.data_key_id
        if key_id not in self._found:
            try:
                self._found[key_id] = self._unwrapped(released)
            except OpeningError as error:
                self._found[key_id] = error
        found = self._found[key_id]
        if isinstance(found, OpeningError):
            raise OpeningError(str(found), found.fault, released.value.subject)
        return found

    def _unwrapped(self, released: Released) -> bytes:
        ours = [data_key for data_key in released.data_keys if data_key.recipient in self._opener.fingerprints]
        if not ours:
            raise for_another_recipient(released.data_keys)
        return self._opener.unwrap(ours[0])


def open_released(released: Sequence[Released], data_keys: DataKeys, checks: TokenChecks) -> Opening:
    """Open values, each independently of the others.

    Args:
        released: as the database released it.
        data_keys: the private key, and the data keys that it has unwrapped so far.
        checks: the token keys, to tell planted values.

    Returns:
        Refused are values with one of the faults of `Fault`, but `UNCHECKED`, which is the caller's to judge.

    Raises:
        KeyFileError: KMS is out of reach, or refuses.
    """
    refused: list[OpeningError] = []
    unwrapped: list[Unwrapped] = []
    for each in released:
        try:
            unwrapped.append(Unwrapped(each.value, data_keys.of(each), each.recipients))
        except OpeningError as error:
            refused.append(error)
    opened = {}
    for value in unwrapped:
        try:
            opened[value.value.subject] = _opened(value, unwrapped, checks)
        except OpeningError as error:
            refused.append(error)
    return Opening(opened, refused)


def planted(subject: str, field_name: str) -> OpeningError:
    """Return the error of a value that gives another token."""
    return OpeningError(
        f"the sealed {field_name} of {subject} was planted: it opens, and gives another token; see docs/security.md",
        Fault.PLANTED,
        subject,
    )


def _opened(unwrapped: Unwrapped, all_of_them: Iterable[Unwrapped], checks: TokenChecks) -> Opened:
    value = unwrapped.value
    try:
        plaintext = unwrapped.open()
    except OpeningError:
        neighbours = (other for other in all_of_them if other is not unwrapped)
        raise diagnosed(unwrapped, neighbours, checks.all_of) from None
    # What is stored under a message id is its body; anything else must give its token, whatever field it claims.
    if value.field_name == BODY and is_message_id(value.subject):
        return Opened(value.subject, value.field_name, plaintext, checked=None)
    fits = checks.fits(value.subject, value.field_name, plaintext)
    if fits is False:
        raise planted(value.subject, value.field_name)
    return Opened(value.subject, value.field_name, plaintext, checked=fits)
