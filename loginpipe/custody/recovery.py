"""Recover clear values for the tokens that a custodian requests, or report why not. The access log records it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO
from uuid import UUID

from loginpipe.common.errors import LoginpipeError, OpeningError
from loginpipe.custody.access import release
from loginpipe.custody.opening import DataKeys, Opened, Opener, Opening, Problem, open_released
from loginpipe.custody.token_checks import OF_MESSAGES, Families, TokenChecks
from loginpipe.postgres.connections import Connection


@dataclass(frozen=True)
class Recovered:
    """A value in clear, of a token or message id of the request.

    It is found ``by_alias`` if no key of the token's own version is given, so that only an alias could be checked.
    """

    subject: str
    field_name: str
    plaintext: bytes = field(repr=False)
    by_alias: bool = False

    @property
    def checked_by(self) -> str:
        """What proves the value: the token, an alias of it, or the message that it was sealed for."""
        if self.field_name in OF_MESSAGES:
            return "message"
        return "alias" if self.by_alias else "token"

    @property
    def text(self) -> str:
        """The value as text. Bytes of a message body that are not UTF-8 become hexadecimal escapes."""
        return self.plaintext.decode("utf-8", "backslashreplace")


class Recovery(NamedTuple):
    """The recovered values, the errors of those that do not open or cannot be trusted, and subjects without a value."""

    recovered: list[Recovered]
    refused: list[OpeningError]
    missing: list[str]


def recover(connection: Connection, request_id: UUID, opener: Opener, checks: TokenChecks, *, limit: int) -> Recovery:
    """Release a committed request of this role and open its values, one for each subject.

    Raises:
        AccessRefusedError: the release was refused.
        LoginpipeError: the request has more values than ``limit``. None was opened.
        KeyFileError: KMS is unreachable or refuses.
    """
    released = release(connection, request_id)
    asked = list(released.places)
    if len(asked) > limit:
        raise LoginpipeError(
            f"the request has {len(asked)} values, more than --limit {limit}: none was opened; request again, and "
            f"give --limit {len(asked)}"
        )
    opening = open_released(released.found, DataKeys(opener), checks)
    return resolve(asked, opening, released.places, checks)


def resolve(asked: Sequence[str], opening: Opening, families: Families, checks: TokenChecks) -> Recovery:
    """Find the opened value of each token: its own, or that of an alias if it proves right."""
    recovered, missing, refused = [], [], list(opening.refused)
    bad = {error.subject for error in opening.refused}
    for subject in asked:
        family = families.get(subject, (subject,))
        names = [subject, *(member for member in family if member != subject)]
        opened = [opening.opened[name] for name in names if name in opening.opened]
        found = [_evaluated(subject, each, family, checks) for each in opened]
        good = next((each for each in found if isinstance(each, Recovered)), None)
        if good is not None:
            recovered.append(good)
        elif found:
            refused += [each for each in found if isinstance(each, OpeningError)]
        elif subject not in bad:
            missing.append(subject)
    return Recovery(recovered, refused, missing)


def _evaluated(subject: str, opened: Opened, family: Sequence[str], checks: TokenChecks) -> Recovered | OpeningError:
    """Return an opened value if it belongs to a token, by the token itself or one of its family; else the error."""
    value = Recovered(subject, opened.field_name, opened.plaintext)
    if opened.field_name in OF_MESSAGES:
        return value
    fits = opened.checked if opened.subject == subject else checks.fits(subject, opened.field_name, opened.plaintext)
    if fits is False:
        return OpeningError(
            f"the alias of {subject} was planted: it leads to {opened.subject}, whose value has another token; "
            "see docs/security.md",
            Problem.ALIAS_PLANTED,
            subject,
        )
    if fits or any(checks.fits(member, opened.field_name, opened.plaintext) for member in family):
        return Recovered(subject, opened.field_name, opened.plaintext, by_alias=not fits)
    return OpeningError(
        f"the {opened.field_name} of {subject} opens, but no available key can check it against the token: "
        "add the token's version to LOGINPIPE_TOKEN_KEYS, or set LOGINPIPE_COMPAT_SALT to the salt it was made with",
        Problem.UNCHECKED,
        subject,
    )


@contextmanager
def private_output(path: Path) -> Iterator[TextIO]:
    """Create a new file of mode 0600 for a block, or raise LoginpipeError. If the block raises, delete the file.

    Open it before the release, because a release returns its values only once.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise LoginpipeError(f"{path} exists and is not overwritten: specify another file") from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _unwritable(path: Path, error: OSError) -> LoginpipeError:
    return LoginpipeError(f"cannot write {path} ({error.strerror}): fix its path or its permissions, and request again")
