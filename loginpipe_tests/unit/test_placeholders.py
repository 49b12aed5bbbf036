"""Placeholders, which stand for no value: their tokens with every key and older scheme, and counts without them."""

from hashlib import md5

import pytest

from loginpipe.logins.canonical import PLACEHOLDERS, all_spellings
from loginpipe.logins.splitting import split_batch
from loginpipe.masking.compat import MD5, CompatMasking
from loginpipe.masking.mask import MaskedLogins, mask_logins, seen_before
from loginpipe.masking.tokens import PlaceholderToken, placeholder_tokens
from loginpipe_tests.batches import received
from loginpipe_tests.custody import token_keys
from loginpipe_tests.wire import login

KEYS = token_keys(1, 2)


def masked(*bodies: str, compat: CompatMasking | None = None) -> MaskedLogins:
    return mask_logins(split_batch(received(bodies)).accepted, KEYS, compat)


def marked(field: str, *further: str, compat: CompatMasking | None = None) -> set[str]:
    return {each.token for each in placeholder_tokens(further, KEYS, compat) if each.field == field}


@pytest.mark.parametrize(
    "device",
    [
        *PLACEHOLDERS, *(text.upper() for text in PLACEHOLDERS), "Null", "None", "Unknown", " unknown\u200b", "N/a", 0,
        "FFFFFFFF-ffff-FFFF-ffff-FFFFFFFFFFFF",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_device_id_that_stands_for_none_has_a_marked_token(device: str | int) -> None:
    (token,) = masked(login(device_id=device)).columns["masked_device_id"]
    assert token in marked("device_id")
    assert token not in marked("ip")


@pytest.mark.parametrize("address", ["0.0.0.0", "0.0.0.0:80", "::", "[::]:443", "0:0:0:0:0:0:0:0", "::ffff:0.0.0.0"])
def test_an_address_that_stands_for_none_has_a_marked_token(address: str) -> None:
    (token,) = masked(login(ip=address)).columns["masked_ip"]
    assert token in marked("ip")


def test_other_values_are_not_marked_until_they_are_listed() -> None:
    logins = masked(login(device_id="Test-Device", ip="192.0.2.1"), login(device_id="nullable", ip="::1"))
    devices, addresses = logins.columns["masked_device_id"], logins.columns["masked_ip"]
    assert not marked("device_id").intersection(devices)
    assert not marked("ip").intersection(addresses)
    listed = ("Test-Device", "192.0.2.1")
    assert marked("device_id", *listed).intersection(devices) == {devices[0]}
    assert marked("ip", *listed).intersection(addresses) == {addresses[0]}


def test_every_key_version_in_use_has_its_tokens_and_one_that_is_not_used_yet_has_none() -> None:
    later = token_keys(1, 2, 3)
    for keys, versions in ((KEYS, {"v1", "v2"}), (later, {"v1", "v2", "v3"})):
        found = placeholder_tokens((), keys)
        assert {each.made_by for each in found} == versions
        assert len({(each.token, each.field) for each in found}) == len(found)
    before_use = type(later)(2, later.field_keys)
    assert {each.made_by for each in placeholder_tokens((), before_use)} == {"v1", "v2"}


def test_an_older_scheme_has_its_values_of_every_spelling_beside_the_tokens() -> None:
    scheme = CompatMasking(MD5)
    found = placeholder_tokens(("Anonymous",), KEYS, scheme)
    assert {each.made_by for each in found} == {"v1", "v2", MD5}
    devices = {each.token for each in found if each.made_by == MD5 and each.field == "device_id"}
    for text in ("null", "NULL", "Null", "Anonymous", "ANONYMOUS", "anonymous", "0.0.0.0"):
        assert md5(text.encode()).hexdigest() in devices
    assert PlaceholderToken(md5(b"0.0.0.0").hexdigest(), "ip", MD5) in found


def test_spellings_are_each_there_once() -> None:
    assert len(set(all_spellings(("null", "X")))) == len(all_spellings(("null", "X")))
    assert {"x", "X"} <= set(all_spellings(("X",)))


def test_a_placeholder_was_not_seen_before_however_often_it_came() -> None:
    nil = "00000000-0000-0000-0000-000000000000"
    devices = [nil, nil, "null", "phone", "phone", "tablet", nil, "NULL"]
    batch = masked(*(login(device_id=device) for device in devices))
    placeholders = placeholder_tokens((), KEYS)
    assert seen_before(batch, frozenset())["device_id"] == 3 / 8
    assert seen_before(batch, frozenset(), placeholders) == {"ip": 7 / 8, "device_id": 1 / 8}
    vault = frozenset(batch.columns["masked_device_id"][:1] + batch.columns["masked_device_id"][5:6])
    assert seen_before(batch, vault, placeholders)["device_id"] == 2 / 8
