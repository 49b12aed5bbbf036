"""Convert app versions to sortable integers and back: ``major * 1_000_000 + minor * 1_000 + patch``.

Additions to these three numbers are accepted and left out of the integer: ``v2.3.0``, ``2.3.0.15``, ``2.3.0-beta.1``,
``2.3.0+45``, ``2.3.0 (45)``. The SQL functions ``loginpipe.app_version_text`` and ``loginpipe.app_version_number`` do
the same for analysts, who write plain versions.
"""

import re
from functools import lru_cache

MAX_MAJOR = 2146
"""The largest major version: 2147 with minor and patch at 999 would not fit Postgres' ``integer``."""
MAX_ENCODED = MAX_MAJOR * 1_000_000 + 999_999
"""The largest encoded version."""

_VERSION = re.compile(
    r"""
    \s* [vV]?
    0*([0-9]{1,4})
    (?:
        \.0*([0-9]{1,3})
        (?: \.0*([0-9]{1,3}) (?P<fourth>\.[0-9]+)? )?
    )?
    (?P<suffix>
        # Of SemVer. After fewer than three numbers a pre-release must begin with a letter: 2026-11-28 is a date.
        (?: - (?(3)|(?=[A-Za-z])) [0-9A-Za-z.-]+ )? (?: \+ [0-9A-Za-z.-]+ )?
        # The build as iOS shows it.
        (?: [ ]\( [0-9A-Za-z.-]+ \) )?
    )
    \s*
    """,
    re.VERBOSE,
)


@lru_cache(maxsize=4096)
def encode_version(text: str) -> int:
    """Return the integer of a version from its first three numbers; a missing one counts as 0.

    Raises:
        ValueError: another form, minor or patch above 999, or major above 2146. Does not quote the text.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError("not a version of one to three numeric components")
    major, minor, patch = (int(component or 0) for component in match.group(1, 2, 3))
    if major > MAX_MAJOR:
        raise ValueError(f"major version above {MAX_MAJOR}")
    return major * 1_000_000 + minor * 1_000 + patch


@lru_cache(maxsize=4096)
def loses_text(text: str) -> bool:
    """Return True if the integer of a version loses a part of its text: a suffix, or a fourth number other than 0.

    White space, a leading ``v`` and leading zeros do not count. A text that is not a version loses nothing.
    """
    match = _VERSION.fullmatch(text)
    return match is not None and bool(match["suffix"] or (match["fourth"] or "").strip(".0"))


def decode_version(number: int) -> str:
    """Return an encoded version as text, as in ``"2.3.0"``; raise `ValueError` for any other number."""
    if not 0 <= number <= MAX_ENCODED:
        raise ValueError("not an encoded version")
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def is_version(text: str) -> bool:
    """Return True if `encode_version` accepts a text."""
    try:
        encode_version(text)
    except ValueError:
        return False
    return True
