"""Read and write files that no other user can access. Failures are `KeyFileError`s.

New files appear as a whole, and never overwrite another.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loginpipe.common.errors import KeyFileError


def read_private_file(path: Path, what: str) -> bytes:
    """Return the content of a file that no other user can access."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(what, path, error) from None
    if mode & 0o077:
        raise KeyFileError(f"the {what} {path} has the mode {mode:04o}: run `chmod 600 {path}`")
    return content


def create_private_file(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600, which appears as a whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        folder = f"the folder {path.parent} cannot be made ({error.strerror})"
        raise KeyFileError(f"{folder}: fix the path or its permissions") from None
    try:
        try:
            _write(draft, content)
            # A link, unlike a rename, fails if the name is taken.
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise already_there(path) from None
    except OSError as error:
        raise _unwritable(path, error) from None


def replace_private_file(path: Path, content: bytes) -> None:
    """Replace the content of a file as a whole or not at all. Owner and group stay; the mode becomes 0600.

    An interruption leaves the old file or the new one. Hold `exclusively` around reading and replacing.
    """
    path = path.resolve()
    # Always the same name, so that the next attempt removes what an interrupted one left.
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        try:
            before = path.stat()
            _write(draft, content)
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(draft, before.st_uid, before.st_gid)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None


@contextmanager
def exclusively(path: Path, what: str) -> Iterator[None]:
    """Lock a file from reading to replacing it, against other processes that use this lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(what, path, error) from None
    try:
        if not _locked(descriptor, path):
            raise KeyFileError(f"the {what} {path} is being changed by another process: see what it made of it")
        yield
    finally:
        os.close(descriptor)


def already_there(path: Path) -> KeyFileError:
    """Return the error for a file that would be overwritten."""
    return KeyFileError(f"{path} exists, and keys are never overwritten: move it away if nothing was made with it")


def unreadable(what: str, path: Path, error: OSError) -> KeyFileError:
    """Return the error for a file that cannot be read."""
    return KeyFileError(
        f"the {what} {path} cannot be read ({error.strerror}): fix that, or make one with `loginpipe keys generate`"
    )


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"{path} cannot be written ({error.strerror}): fix that and try again")


def _locked(descriptor: int, path: Path) -> bool:
    """Lock a file until it is closed; return False if another process holds the lock or has replaced the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        raise _unwritable(path, error) from None


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # So that the rename survives a power loss.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
