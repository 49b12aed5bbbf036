"""Pinned fingerprints: values are sealed for the keys that the operator knows, and for no other. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.key_uris import KeyUri
from loginpipe.masking.sealing import SealKey

_FINGERPRINT = "LOGINPIPE_SEAL_KEY_FINGERPRINT"


@dataclass(frozen=True)
class NamedSealKey:
    """A seal key and where it is, for messages."""

    uri: KeyUri
    place: str
    key: SealKey


def pinned_fingerprints(setting: str | None) -> frozenset[str]:
    """Take ``LOGINPIPE_SEAL_KEY_FINGERPRINT`` apart: each in lower case, without the colons that other tools put in."""
    if setting is None:
        return frozenset()
    return frozenset(part.replace(":", "").strip().lower() for part in setting.split(","))


def require_pinned(named: Sequence[NamedSealKey], setting: str | None) -> None:
    """Refuse keys that are not, each and all of them, the pinned ones; the order is of no account.

    Args:
        named: what ``LOGINPIPE_SEAL_KEY`` names.
        setting: the value of ``LOGINPIPE_SEAL_KEY_FINGERPRINT``, if it is set.

    Raises:
        KeyFileError: a key that is not pinned, or more pinned ones than keys.
    """
    if setting is None:
        found = ",".join(each.key.fingerprint for each in named)
        places = " and ".join(each.place for each in named)
        right = "is the right key" if len(named) == 1 else "are the right keys"
        raise KeyFileError(
            f"{_FINGERPRINT} is not set, and production demands it: if {places} {right}, set it to {found}"
        )
    pinned = pinned_fingerprints(setting)
    for each in named:
        if each.key.fingerprint not in pinned:
            raise KeyFileError(
                f"{each.place} has the fingerprint {each.key.fingerprint}, not the one in {_FINGERPRINT}: the key was "
                "swapped, or the setting is out of date"
            )
    if len(pinned) > len(named):
        raise KeyFileError(
            f"{_FINGERPRINT} pins {len(pinned)} keys and LOGINPIPE_SEAL_KEY names {len(named)}: "
            "a recipient was left out, or the setting is out of date"
        )
