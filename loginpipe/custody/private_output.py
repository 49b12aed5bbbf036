"""A file for values in clear: nobody else can read it, nothing is overwritten, and half of one is never left behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from loginpipe.common.errors import LoginpipeError


@contextmanager
def private_output(path: Path) -> Iterator[TextIO]:
    """Make a new file of mode 0600 for the length of a block; it goes again if the block raises.

    It is made before there is anything to write: what a release gives out is given out once.

    Raises:
        LoginpipeError: it exists, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise LoginpipeError(f"{path} exists, and nothing is overwritten: name another file") from None
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
    return LoginpipeError(f"{path} cannot be written ({error.strerror}): mend that, and request again")
