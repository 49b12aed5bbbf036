"""Why tokens are no hashes: an attacker with the table can try every possible value and compare.

There are a thousand million device ids like 593-47-5928 and four thousand million addresses: minutes on one core. The
tests use a hundred thousand of each, and the attacker knows everything except secret keys.
"""

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from hashlib import md5, sha256
from hmac import digest
from ipaddress import IPv4Address
from itertools import product

import pytest

from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.tokens import TokenKeys, derivation_label, derive_field_keys

SALT = b"of the whole installation, in its configuration"
DEVICE_IDS = [b"593-47-5928", b"590-00-0000", b"599-12-3456"]
ADDRESSES = [b"199.172.0.7", b"199.172.255.254"]
KEYS = TokenKeys(1, {1: derive_field_keys(bytes(range(32)))})

Mask = Callable[[bytes], str]


def device_ids() -> Iterator[bytes]:
    for front in product((590, 593, 599), (0, 12, 47)):
        yield from (b"%03d-%02d-%04d" % (*front, end) for end in range(10_000))


def addresses() -> Iterator[bytes]:
    first = int(IPv4Address("199.172.0.0"))
    return (str(IPv4Address(first + host)).encode() for host in range(2**16))


def broken(table: Iterable[str], guesses: Iterable[bytes], mask: Mask) -> dict[str, bytes]:
    """Return what an attacker finds: masked value → value."""
    wanted = set(table)
    return {masked: guess for guess in guesses if (masked := mask(guess)) in wanted}


OLDER_SCHEMES: list[tuple[CompatMasking, Mask]] = [
    (CompatMasking("compat-sha256"), lambda guess: sha256(guess).hexdigest()),
    (CompatMasking("compat-sha256-salted", SALT), lambda guess: sha256(SALT + guess).hexdigest()),
    (CompatMasking("compat-sha256-base64"), lambda guess: b64encode(sha256(guess).digest()).decode()),
    (CompatMasking("compat-md5"), lambda guess: md5(guess, usedforsecurity=False).hexdigest()),
]


@pytest.mark.parametrize(("scheme", "attack"), OLDER_SCHEMES, ids=lambda part: getattr(part, "name", ""))
@pytest.mark.parametrize(
    ("values", "guesses"), [(DEVICE_IDS, device_ids), (ADDRESSES, addresses)], ids=["device ids", "addresses"]
)
def test_a_hash_is_undone_by_trying_every_value_salt_or_no_salt(
    scheme: CompatMasking, attack: Mask, values: list[bytes], guesses: Callable[[], Iterator[bytes]]
) -> None:
    table = scheme.tokens(values)
    assert broken(table, guesses(), attack) == dict(zip(table, values, strict=True))


def without_the_key(field: str) -> dict[str, Mask]:
    """Return what an attacker can try who knows our code, the label and the whole database, but no key."""
    prefix = {"ip": "ip.v1.", "device_id": "dev.v1."}[field]
    label = derivation_label(field)

    def token(mac: bytes) -> str:
        return prefix + urlsafe_b64encode(mac).decode().rstrip("=")

    def hmac_under(key: bytes) -> Mask:
        return lambda guess: token(digest(key, guess, "sha256"))

    known = {"nothing": b"", "zeros": bytes(32), "the label": label, "the check value": KEYS.check_values()[1]}
    return {
        "a plain hash": lambda guess: token(sha256(guess).digest()),
        "a hash salted with the label": lambda guess: token(sha256(label + guess).digest()),
        **{f"an HMAC under {name}": hmac_under(key) for name, key in known.items()},
        **{
            f"an HMAC under a key derived from {name}": hmac_under(derive_field_keys(key)[field])
            for name, key in known.items()
        },
    }


@pytest.mark.parametrize("attack", without_the_key("ip"))
def test_a_token_is_not_undone_by_trying_every_value_without_the_key(attack: str) -> None:
    devices = KEYS.tokens("device_id", DEVICE_IDS)
    assert broken(devices, device_ids(), without_the_key("device_id")[attack]) == {}
    packed = [IPv4Address(address.decode()).packed for address in ADDRESSES]
    guesses = (IPv4Address(address.decode()).packed for address in addresses())
    assert broken(KEYS.tokens("ip", packed), guesses, without_the_key("ip")[attack]) == {}


def test_with_the_key_the_same_attack_finds_everything_so_the_key_is_what_is_to_be_guarded() -> None:
    table = KEYS.tokens("device_id", DEVICE_IDS)
    attack: Mask = lambda guess: KEYS.tokens("device_id", [guess])[0]  # noqa: E731
    assert broken(table, device_ids(), attack) == dict(zip(table, DEVICE_IDS, strict=True))
