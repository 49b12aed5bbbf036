"""Make the tokens of placeholders, so that the database can recognise them without any clear value."""

from collections.abc import Iterable
from typing import NamedTuple

from loginpipe.logins.canonical import canonical_address, canonical_device_id, is_address
from loginpipe.logins.placeholders import all_spellings
from loginpipe.masking.compat import CompatMasking, received
from loginpipe.masking.tokens import TokenKeys


class PlaceholderToken(NamedTuple):
    """The token of a placeholder for ``ip`` or ``device_id``, made by a key version (``v1``) or an older scheme."""

    token: str
    field: str
    made_by: str


def placeholder_tokens(
    further: Iterable[str], keys: TokenKeys, compat: CompatMasking | None = None
) -> list[PlaceholderToken]:
    """Return the tokens of built-in and further placeholders, for the current and older key versions, each once.

    Versions above the current one make no tokens yet. An older scheme in use adds its values of the placeholders.
    """
    texts = all_spellings(further)
    addresses = list(filter(is_address, texts))
    canonical = {
        "ip": list(dict.fromkeys(map(canonical_address, addresses))),
        "device_id": list(dict.fromkeys(map(canonical_device_id, texts))),
    }
    found = [
        PlaceholderToken(token, field, f"v{version}")
        for version in (*keys.older, keys.current)
        for field, values in canonical.items()
        for token in keys.tokens(field, values, version)
    ]
    if compat is not None:
        found += [
            PlaceholderToken(token, field, compat.name)
            for field, as_received in (("ip", addresses), ("device_id", texts))
            for token in compat.tokens(list(dict.fromkeys(map(received, as_received))))
        ]
    return found
