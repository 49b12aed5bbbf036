"""App versions as sortable integers and back: ``major * 1_000_000 + minor * 1_000 + patch``.

The SQL functions ``loginpipe.app_version_text`` and ``loginpipe.app_version_number`` do the same for analysts.
"""

import re
from functools import lru_cache

MAJOR_MOST = 2146
"""Largest major version: 2147 with minor and patch at 999 would not fit Postgres' ``integer``."""

_VERSION = re.compile(r"0*([0-9]{1,4})(?:\.0*([0-9]{1,3}))?(?:\.0*([0-9]{1,3}))?")


@lru_cache(maxsize=4096)
def encode_version(text: str) -> int:
    """Return the integer of a version of one to three numeric components; a missing one counts as 0.

    Raises:
        ValueError: not of that form, minor or patch above 999, or major above 2146. Does not quote the text.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError("not a version of one to three numeric components")
    major, minor, patch = (int(component or 0) for component in match.groups())
    if major > MAJOR_MOST:
        raise ValueError(f"major version above {MAJOR_MOST}")
    return major * 1_000_000 + minor * 1_000 + patch


def decode_version(number: int) -> str:
    """Return the three components of an encoded version, as in ``"2.3.0"``.

    Raises:
        ValueError: negative, or above the largest encoded version.
    """
    if not 0 <= number <= MAJOR_MOST * 1_000_000 + 999_999:
        raise ValueError("not an encoded version")
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def is_version(text: str) -> bool:
    """Say whether `encode_version` accepts a text."""
    try:
        encode_version(text)
    except ValueError:
        return False
    return True


def says_more(text: str) -> bool:
    """Say whether the text of a version holds more than its integer: anything but its numeric components."""
    return _VERSION.fullmatch(text) is None
