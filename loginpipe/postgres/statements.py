"""The SQL statements in the folder ``sql``, by name.

A file there holds the statements of one subject. Each begins with a line ``-- name: insert_new_logins`` and comment
lines that say what it does and why; these are not sent.
"""

import re
from functools import cache
from pathlib import Path

_HEAD = re.compile(r"^-- name: (\w+)\n((?:--.*\n)*)", re.MULTILINE)


def statement(name: str) -> str:
    """Return the text of a statement.

    Raises:
        KeyError: there is none of that name.
    """
    return _statements()[name]


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
