"""Every error loginpipe raises on purpose, as one family.

A message is one line: what happened, to what, and what to do. It carries codes, names and counts, never a
value from a login. Raise with ``from None`` wherever the original error could quote data: Dagster stores
``__cause__`` and an unsuppressed ``__context__``.
"""


class LoginpipeError(Exception):
    """Base of the family. The command line prints its message and exits with 1."""


class SettingError(LoginpipeError):
    """A setting is missing or wrong."""


class QueueError(LoginpipeError):
    """The queue cannot be used: absent, unreachable, refusing, or not speaking today's SQS protocol."""


class DatabaseError(LoginpipeError):
    """The warehouse cannot be used: unreachable, refusing, or a statement failed.

    Attributes:
        sqlstate: Postgres' code of what failed, or None where the connection did not come about or broke.
        about: the name of the constraint or column that refused a row, if one did.
        is_about_a_row: whether a row was refused for what it holds, and another one may be taken.
    """

    def __init__(
        self, message: str, sqlstate: str | None = None, *, about: str | None = None, is_about_a_row: bool = False
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.about = about
        self.is_about_a_row = is_about_a_row


class SchemaError(DatabaseError):
    """The warehouse is not as loginpipe needs it: not migrated, or ``user_logins`` is not the contract."""


class BrakeError(LoginpipeError):
    """Nearly all of a run's first messages were rejected: a setting is wrong, or a sender has changed something."""


class KeyFileError(LoginpipeError):
    """A key cannot be used: absent, unreadable, too widely readable, malformed, or not the one pinned."""


class TokenKeyMismatchError(LoginpipeError):
    """A token key is not the one that earlier tokens of its version were made with."""


class ClearValueError(LoginpipeError):
    """A cell that must hold a token holds something else: nothing of its batch may be written."""


class PassphraseError(KeyFileError):
    """A passphrase does not open the private key that it was typed for."""


class OpeningError(LoginpipeError):
    """A sealed value does not open, or is not what its token stands for.

    Attributes:
        problem: what is wrong with it, a code of `loginpipe.custody.opening.Problem`.
        subject: the token or message id whose value it is; None where a data key is at problem.
    """

    def __init__(self, message: str, problem: str, subject: str | None = None) -> None:
        super().__init__(message)
        self.problem = problem
        self.subject = subject


class AccessRefusedError(LoginpipeError):
    """The database refused a request, an approval, a release or an erasure, and has that on record.

    Attributes:
        code: the refusal code, as in `loginpipe.custody.access.REFUSALS`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class AuditError(LoginpipeError):
    """The access log is not what was written into it."""


class ArchiveError(LoginpipeError):
    """The archive cannot be used: not set up, unreachable, or refusing."""


class ArchivedDayError(ArchiveError):
    """One day cannot be used: its file is missing or damaged, or the table and the archive differ."""


class BackupError(LoginpipeError):
    """A backup cannot be taken, is not what was written, or cannot be restored here."""


class LocalStackError(LoginpipeError):
    """The embedded services cannot be started, found or stopped."""


class AlertError(LoginpipeError):
    """An alert was not delivered."""
