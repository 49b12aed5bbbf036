"""Load SQL statements by name.

Each file in the folder ``sql`` holds the statements of one subject. Each statement starts with a line ``-- name:
insert_new_logins`` and comment lines that explain it; these are not sent. The files use ``public.user_logins``, which
is replaced by the table of this process.
"""

import re
from functools import cache
from pathlib import Path

from loginpipe.common.logins_table import DEFAULT_TABLE, logins_table

_HEAD = re.compile(r"^-- name: (\w+)\n((?:--.*\n)*)", re.MULTILINE)


def statement(name: str) -> str:
    """Return the text of a statement, for the table of `logins_table`, or raise KeyError."""
    return for_logins_table(_statements()[name])


def for_logins_table(text: str) -> str:
    """Return SQL that is written for ``public.user_logins``, changed to the table of `logins_table`."""
    return text.replace(DEFAULT_TABLE, logins_table())


@cache
def _statements() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(Path(__file__).with_name("sql").glob("*.sql")):
        _, *parts = _HEAD.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[::3], parts[2::3], strict=True):
            if name in found:
                raise ValueError(f"the statement {name} is there twice, once in sql/{file.name}: rename one")
            found[name] = text.strip()
    return found
