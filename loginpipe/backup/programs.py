"""Find ``pg_dump`` and ``pg_restore``, check their versions, and run them without exposing the password."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from psycopg2.extensions import make_dsn, parse_dsn

from loginpipe.common.errors import BackupError
from loginpipe.postgres.connections import secured

DUMP = "pg_dump"
RESTORE = "pg_restore"

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
# The text after the table name quotes the row.
_COPY_FAILED = re.compile(r'(COPY failed for table "[^"]*").*')


def require_program(name: str, *, at_least: int, because: str) -> int:
    """Return the major version of `DUMP` or `RESTORE` in PATH.

    `because` is what has the version `at_least`, for the message, as in ``the server``.

    Raises:
        BackupError: the program is missing or older.
    """
    fix = f"install the client programs of PostgreSQL {at_least} or newer, and put their folder first in PATH"
    path = shutil.which(name)
    if path is None:
        raise BackupError(f"{name} is not on this machine's PATH: {fix}")
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    except OSError as error:
        raise BackupError(f"{path} cannot be run ({error.strerror}): {fix}") from None
    version = _VERSION.search(said)
    if version is None:
        raise BackupError(f"{path} does not say its version: {fix}")
    major = int(version[1])
    if major < at_least:
        raise BackupError(f"{path} is of PostgreSQL {major}, and {because} is of {at_least}: {fix}")
    return major


def run(name: str, arguments: Sequence[str], database_url: str | None = None) -> str:
    """Run `DUMP` or `RESTORE` to its end, and return its output.

    If the program needs a database, give `database_url`. Its password is passed in the environment.

    Raises:
        BackupError: the program failed. The message has its first error, without any row.
    """
    target, environment = ([], {}) if database_url is None else _connection(database_url)
    done = subprocess.run(  # noqa: S603 - no shell
        [shutil.which(name) or name, *arguments, *target],
        # Messages in English, because their words are parsed.
        env={**os.environ, **environment, "LC_MESSAGES": "C", "LC_ALL": "C"},
        umask=0o077,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise BackupError(f"{name} failed: {_complaint(name, done.stderr)}")
    return done.stdout


def _connection(database_url: str) -> tuple[list[str], dict[str, str]]:
    parameters = secured(parse_dsn(database_url))
    password = parameters.pop("password", None)
    if "sslpassword" in parameters:
        raise BackupError(
            "the database URL holds sslpassword, which the other users of this machine could read on a command line: "
            "use a client key without a passphrase, in a file of mode 0600"
        )
    return (
        [f"--dbname={make_dsn(**parameters)}", "--no-password"],
        {} if password is None else {"PGPASSWORD": password},
    )


def _complaint(name: str, stderr: str) -> str:
    for line in stderr.splitlines():
        kind, _, words = line.removeprefix(f"{name}: ").partition(": ")
        if kind == "error":
            return _COPY_FAILED.sub(r"\1", words).strip()
    return "it gave no reason; run it again, and look at the server's log"
