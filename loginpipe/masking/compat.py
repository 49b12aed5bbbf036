"""Mask with older schemes, for installations whose table already holds their values and must stay joinable.

Do not use them for new tables. There are so few addresses and device ids that anyone who has the table can try them all
in minutes, with or without a salt. To stay joinable, the schemes mask the text as received, stripped: two spellings of
an address, two cases of a UUID, or an address with and without a port give different values.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import md5, sha256

HMAC = "hmac-sha256"
"""The value of ``LOGINPIPE_MASKING`` for tokens. `loginpipe.masking.tokens` makes them, not this file."""
PLAIN = "compat-sha256"
SALTED = "compat-sha256-salted"
BASE64 = "compat-sha256-base64"
MD5 = "compat-md5"


def _sha256(salt: bytes, value: bytes) -> str:
    return sha256(salt + value).hexdigest()


def _base64(_: bytes, value: bytes) -> str:
    return b64encode(sha256(value).digest()).decode()


def _md5(_: bytes, value: bytes) -> str:
    return md5(value, usedforsecurity=False).hexdigest()


_SCHEMES: Mapping[str, tuple[Callable[[bytes, bytes], str], re.Pattern[str]]] = {
    PLAIN: (_sha256, re.compile("[0-9a-f]{64}")),
    SALTED: (_sha256, re.compile("[0-9a-f]{64}")),
    BASE64: (_base64, re.compile("[A-Za-z0-9+/]{43}=")),
    MD5: (_md5, re.compile("[0-9a-f]{32}")),
}


@dataclass(frozen=True)
class CompatMasking:
    """An older scheme, which masks every field in the same way.

    `name` is a value of ``LOGINPIPE_MASKING``. `salt` is put before the value by `SALTED`, and empty otherwise.
    """

    name: str
    salt: bytes = field(default=b"", repr=False)

    def tokens(self, values: Sequence[bytes]) -> list[str]:
        """Return the masked form of each value, in order. The values come from `received`."""
        masked, _ = _SCHEMES[self.name]
        return [masked(self.salt, value) for value in values]

    @property
    def pattern(self) -> re.Pattern[str]:
        """The pattern that every masked value matches in full."""
        return _SCHEMES[self.name][1]

    @property
    def warning(self) -> str:
        """The warning to log at every start."""
        return (
            f"LOGINPIPE_MASKING is {self.name}: whoever holds the table can find address and device id of every login "
            f"by trying them all; once nothing depends on the old values, set it to {HMAC}"
        )


def schemes_of(token: str) -> frozenset[str]:
    """Return the names of the schemes that can have made a masked value, by its form."""
    return frozenset(name for name, (_, pattern) in _SCHEMES.items() if pattern.fullmatch(token))


def received(text: str) -> bytes:
    """Return what the older schemes masked: the text as received, stripped, as UTF-8."""
    return text.strip().encode()
