"""Define every error that loginpipe raises on purpose, as one family, and locate the runbook that explains them.

A message is one line: what happened, to what, and what to do. It contains codes, names and counts, never a value from
a login. Raise with ``from None`` if the original error could quote data: Dagster stores ``__cause__`` and an
unsuppressed ``__context__``.
"""


class LoginpipeError(Exception):
    """The base class. The command line prints its message and exits with 1."""


class SettingError(LoginpipeError):
    """A setting is missing or wrong."""


class QueueError(LoginpipeError):
    """The queue cannot be used: it is absent, unreachable, refuses access, or does not use the current SQS protocol."""


class DatabaseError(LoginpipeError):
    """The warehouse cannot be used: it is unreachable, refuses access, or a statement failed.

    Attributes:
        sqlstate: Postgres' error code, or None if the connection failed.
        about: name of the constraint or column that refused a row, if any.
        is_about_a_row: True if Postgres refused the content of a row, so that other rows may be accepted.
    """

    def __init__(
        self, message: str, sqlstate: str | None = None, *, about: str | None = None, is_about_a_row: bool = False
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.about = about
        self.is_about_a_row = is_about_a_row


class SchemaError(DatabaseError):
    """The warehouse has the wrong schema: it is not migrated, or ``user_logins`` does not match the contract."""


class BrakeError(LoginpipeError):
    """Nearly all of a run's first messages were rejected: a setting is wrong, or a sender has changed something."""


class KeyFileError(LoginpipeError):
    """A key cannot be used: it is absent, unreadable, readable by others, malformed, or not pinned."""


class TokenKeyMismatchError(LoginpipeError):
    """A token key is not the one that made earlier tokens of its version."""


class ClearValueError(LoginpipeError):
    """A cell that must hold a token holds something else, so nothing of its batch may be written."""


class PassphraseError(KeyFileError):
    """A passphrase does not open its private key."""


class OpeningError(LoginpipeError):
    """A sealed value does not open, or does not belong to its token.

    Attributes:
        problem: a code of `loginpipe.custody.opening.Problem`.
        subject: token or message id of the value; None if the problem is a data key.
    """

    def __init__(self, message: str, problem: str, subject: str | None = None) -> None:
        super().__init__(message)
        self.problem = problem
        self.subject = subject


class AccessRefusedError(LoginpipeError):
    """The database refused and recorded a request, an approval, a release or an erasure.

    ``code`` is one of `loginpipe.custody.access.REFUSALS`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class AuditError(LoginpipeError):
    """The access log is not intact, or cannot be verified."""


class ArchiveError(LoginpipeError):
    """The archive cannot be used: it is not configured, unreachable, or refuses access."""


class ArchivedDayError(ArchiveError):
    """A day cannot be used: its file is missing or damaged, or table and archive differ."""


class BackupError(LoginpipeError):
    """A backup cannot be taken, is damaged, or cannot be restored here."""


class LocalStackError(LoginpipeError):
    """The embedded services cannot be started, found or stopped."""


class AlertError(LoginpipeError):
    """An alert was not delivered."""


_where = {"url": "docs/operations.md"}


def use_runbook(url: str) -> None:
    """Set the location of the runbook for the whole process: a path or a URL."""
    _where["url"] = url


def runbook(anchor: str) -> str:
    """Return the location of a section, such as ``dead-letters``, in the configured copy or the project's own file."""
    return f"{_where['url']}#{anchor}"
