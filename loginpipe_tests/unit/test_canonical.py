"""One form for every spelling: only equal addresses and equal device ids become equal bytes."""

import unicodedata
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from loginpipe.logins.canonical import address_text, canonical_address, canonical_device_id, is_address, is_address_list

moderate = settings(max_examples=100, deadline=None, print_blob=True)
any_address = st.ip_addresses()
white_space = st.text(alphabet=" \t\r\n\x0b\x0c\u00a0\u2003\u3000", max_size=3)
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\u206f\ufeff"
around = st.text(alphabet=" \t\u00a0" + INVISIBLE, max_size=3)
unicode_text = st.text(max_size=30)


def is_invisible(character: str) -> bool:
    """Return True for soft hyphens, zero-width and directional characters: format characters in these blocks."""
    in_blocks = character in "\u00ad\ufeff" or 0x2000 <= ord(character) <= 0x206F
    return in_blocks and unicodedata.category(character) in {"Cf", "Cn"}


BROKEN_ADDRESSES = [
    "", " ", "1", "12345", "16909060", "0x01020304", "1.2.3", "1.2.3.", ".1.2.3", "1.2.3.4.", "1.2.3.4.5", "256.1.1.1",
    "1.1.1.256", "999.999.999.999", "01.2.3.4", "1.2.3.04", "0x1.2.3.4", "-1.2.3.4", "+1.2.3.4", "1.2.3.4/24",
    "1.2.3.4/32", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:80:80", "1.2.3:80", ":80", "1.2.3 .4", "1. 2.3.4", "1,2,3,4",
    "\u0661.2.3.4", "\uff11.2.3.4", "1.2.3.4\x00", "1.2.3.4%eth0", "localhost", "example.com", "example.com.",
    "::1/128", "[::1", "::1]", "[::1]:", "[::1]80", "[::1]:123456", "[1.2.3.4]:80", "[]:80", "[[::1]]", "[::1] :80",
    "[fe80::1%eth0]:80", ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "12345::", "g::",
    "::ffff:256.1.1.1", "::1.2.3", "::ffff:01.2.3.4", "1:2", "\u0661::", "::1\x00", "fe80::1%eth0", "fe80::1%1",
    "::1%lo", "::ffff:1.2.3.4%eth0", "::1%", "%eth0", "null",
]  # fmt: skip


def ipv6_spellings(address: IPv6Address) -> list[str]:
    # From the bytes, because Python 3.13 writes mapped addresses with a dotted tail.
    numbers = [int.from_bytes(address.packed[i : i + 2], "big") for i in range(0, 16, 2)]
    groups, padded = [f"{number:x}" for number in numbers], [f"{number:04x}" for number in numbers]
    tail = IPv4Address(int(address) & 0xFFFF_FFFF)
    return [
        address.compressed,
        address.exploded,
        ":".join(padded),
        address.compressed.upper(),
        ":".join(padded).upper(),
        ":".join(groups),
        ":".join([*groups[:6], str(tail)]),
    ]


@moderate
@given(st.ip_addresses(v=6), white_space, white_space)
def test_every_spelling_of_an_ipv6_address_is_one_value(address: IPv6Address, before: str, after: str) -> None:
    forms = {canonical_address(before + spelling + after) for spelling in ipv6_spellings(address)}
    expected = address.ipv4_mapped or address
    assert forms == {expected.packed}


@moderate
@given(st.ip_addresses(v=4), white_space, white_space)
def test_every_spelling_of_an_ipv4_address_is_one_value_also_mapped_into_ipv6(
    address: IPv4Address, before: str, after: str
) -> None:
    mapped = IPv6Address(b"\x00" * 10 + b"\xff\xff" + address.packed)
    spellings = [str(address), f"::ffff:{address}", f"::FFFF:{address}", *ipv6_spellings(mapped)]
    assert {canonical_address(before + spelling + after) for spelling in spellings} == {address.packed}


@moderate
@given(any_address, any_address)
def test_two_addresses_are_one_value_only_where_they_are_one_address(
    left: IPv4Address | IPv6Address, right: IPv4Address | IPv6Address
) -> None:
    assume(left != right)
    assume(getattr(left, "ipv4_mapped", None) is None)
    assume(getattr(right, "ipv4_mapped", None) is None)
    assert canonical_address(str(left)) != canonical_address(str(right))


def test_an_ipv4_compatible_address_is_not_the_ipv4_address() -> None:
    assert canonical_address("::1.2.3.4") != canonical_address("1.2.3.4")


@moderate
@given(any_address)
def test_the_text_of_a_canonical_address_is_the_same_address(address: IPv4Address | IPv6Address) -> None:
    packed = canonical_address(str(address))
    assert canonical_address(address_text(packed)) == packed
    assert ip_address(address_text(packed)) in {address, getattr(address, "ipv4_mapped", None)}


@pytest.mark.parametrize(
    "text",
    [
        "224.0.0.1", "239.255.255.250", "127.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1", "10.0.0.1",
        "169.254.0.1", "192.0.2.1", "100.64.0.1", "::", "::1", "ff02::1", "fe80::1", "fc00::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_an_address_of_any_range_is_accepted(text: str) -> None:
    assert is_address(text)
    assert canonical_address(text) == ip_address(text).packed


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1%1", "::1%lo", "::ffff:1.2.3.4%eth0", " fe80::1%eth0 "])
def test_an_address_with_a_zone_is_refused_and_its_zone_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="zone") as caught:
        canonical_address(text)
    assert str(caught.value) == "an address with a zone"


@pytest.mark.parametrize("text", BROKEN_ADDRESSES, ids=ascii)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert not is_address(text)
    with pytest.raises(ValueError, match="address") as caught:
        canonical_address(text)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "ip_address quotes its argument"


@moderate
@given(st.text(alphabet="0123456789abcdefABCDEF.:% /[]g", max_size=45) | st.text(st.characters(), max_size=20))
def test_any_text_is_an_address_or_refused_without_being_quoted(text: str) -> None:
    try:
        packed = canonical_address(text)
    except ValueError as error:
        assert error.args in {  # noqa: PT017 - both outcomes are right; neither may quote
            ("not an IPv4 or IPv6 address",),
            ("an address with a zone",),
        }
        assert not is_address(text)
    else:
        assert len(packed) in {4, 16}
        assert is_address(text)


def plainly(text: str) -> bytes | None:
    """Return the result of `canonical_address` by the standard library's parser only; None if it refuses the text."""
    text = "".join(character for character in text if character not in INVISIBLE).strip()
    host, colon, port = text.rpartition(":")
    with_port = colon and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 2**16
    if with_port and ((host.count(".") == 3 and ":" not in host) or (host[:1] == "[" and host[-1:] == "]")):
        text = host
    if text[:1] == "[" and text[-1:] == "]" and ":" in text:
        text = text[1:-1]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return None if address.scope_id is not None else (address.ipv4_mapped or address).packed
    return address.packed


def fast(text: str) -> bytes | None:
    try:
        return canonical_address(text)
    except ValueError:
        return None


# Texts that are almost addresses, much more often than by chance.
octet = st.integers(0, 300).map(str) | st.sampled_from(
    ["", "00", "01", "001", "1e1", "0x1", "+1", "-0", "\u0661", "\uff11"]
)
dotted = st.lists(octet, min_size=3, max_size=5).map(".".join)
group = st.integers(0, 0x1FFFF).map("{:x}".format) | st.sampled_from(
    ["", "", "0", "0000", "00000", "FFFF", "g", "\u0661"]
)
colons = st.lists(group, min_size=2, max_size=9).map(":".join)
with_tail = st.tuples(colons, dotted).map(":".join)
after = st.sampled_from(
    ["", "", "", " ", "\n", "\u3000", "\u200b", "\x00", "%", "%eth0", "%1", "/64", ".", ":", "[", "]", ":80", "]:80"]
)


@settings(max_examples=2000, deadline=None, print_blob=True)
@given(dotted | colons | with_tail | any_address.map(str) | unicode_text, after, after)
def test_the_fast_way_has_the_verdicts_of_the_plain_one(text: str, before: str, behind: str) -> None:
    assert fast(before + text + behind) == plainly(before + text + behind)


@pytest.mark.parametrize("text", [*BROKEN_ADDRESSES, "\ud800", "1.2.3.4\ud800", "::\ud800"], ids=ascii)
def test_what_is_no_address_is_none_either_way(text: str) -> None:
    assert fast(text) is plainly(text) is None


@moderate
@given(any_address)
@example(IPv6Address("::1.2.3.4"))
@example(IPv6Address("64:ff9b::1.2.3.4"))
@example(IPv6Address("1:0:2:0:0:3:0:0"))
def test_the_text_of_an_address_is_the_standard_library_s(address: IPv4Address | IPv6Address) -> None:
    assert address_text(address.packed) == str(address)


@moderate
@given(st.ip_addresses(v=4), st.ip_addresses(v=6), st.integers(0, 65_535), around, around)
def test_an_address_with_a_port_is_the_address(
    four: IPv4Address, six: IPv6Address, port: int, before: str, behind: str
) -> None:
    assert canonical_address(f"{before}{four}:{port}{behind}") == four.packed
    expected = canonical_address(str(six))
    assert canonical_address(f"{before}[{six}]:{port}{behind}") == expected
    assert canonical_address(f"{before}[{six}]{behind}") == expected


@pytest.mark.parametrize(
    ("text", "is_list"),
    [
        ("1.2.3.4, 5.6.7.8", True),
        ("1.2.3.4,::1,[::1]:80", True),
        ("unknown, 1.2.3.4:80", True),
        ("1.2.3.4,", True),
        ("1.2.3.4, " * 100_000, True),
        ("1.2.3.4", False),
        ("::1", False),
        ("1,2,3,4", False),
        ("a, b", False),
        (",", False),
        ("x" * 1_000_000 + ",1", False),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_list_of_addresses_is_told_from_what_is_no_address(text: str, *, is_list: bool) -> None:
    assert is_address_list(text) is is_list
    assert not (is_list and is_address(text))


@moderate
@given(unicode_text | st.text("ab \t", max_size=6) | st.text("ab\u0301 " + INVISIBLE, max_size=9))
def test_a_device_id_is_its_visible_characters_in_nfc_stripped_whatever_it_holds(text: str) -> None:
    visible = "".join(character for character in text if not is_invisible(character))
    assert canonical_device_id(text) == unicodedata.normalize("NFC", visible).strip().encode()


@moderate
@given(st.uuids().map(str), st.integers(0, 2**36 - 1), st.integers(0, 36), around, around)
def test_a_uuid_is_one_device_in_any_case_and_with_invisible_characters_in_it(
    uuid: str, upper: int, place: int, before: str, behind: str
) -> None:
    mixed = "".join(c.upper() if upper >> i & 1 else c for i, c in enumerate(uuid))
    split = f"{mixed[:place]}\u200b{mixed[place:]}"
    for spelling in (uuid, uuid.upper(), mixed, split, before + mixed + behind):
        assert canonical_device_id(spelling) == uuid.encode()


@moderate
@given(unicode_text, white_space, white_space)
def test_a_device_id_is_one_value_in_every_unicode_form_and_with_any_white_space_around(
    text: str, before: str, after: str
) -> None:
    expected = canonical_device_id(text)
    assert canonical_device_id(unicodedata.normalize("NFC", text)) == expected
    assert canonical_device_id(unicodedata.normalize("NFD", text)) == expected
    assert canonical_device_id(before + text + after) == expected
    assert canonical_device_id(text.strip()) == expected, "parsing strips before this does"


@moderate
@given(unicode_text)
def test_making_a_device_id_canonical_twice_changes_nothing_more(text: str) -> None:
    once = canonical_device_id(text)
    assert canonical_device_id(once.decode()) == once


def test_a_composed_and_a_decomposed_letter_are_one_device_id() -> None:
    assert canonical_device_id("caf\u00e9") == canonical_device_id("cafe\u0301") == b"caf\xc3\xa9"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("abc", "ABC"),
        ("a b", "ab"),
        ("593-47-5928", "593475928"),
        ("1", "01"),
        ("6F9619FF8B86D011B42D00C04FC964FF", "6f9619ff8b86d011b42d00c04fc964ff"),
        ("{6F9619FF-8B86-D011-B42D-00C04FC964FF}", "{6f9619ff-8b86-d011-b42d-00c04fc964ff}"),
        ("6F9619FF-8B86-D011-B42D-00C04FC964FG", "6f9619ff-8b86-d011-b42d-00c04fc964fg"),
        ("\ufb01", "fi"),  # compatible but not canonically equal; only NFKC makes them equal
        ("\u00b2", "2"),
    ],
)
def test_device_ids_that_only_look_alike_stay_apart(left: str, right: str) -> None:
    assert canonical_device_id(left) != canonical_device_id(right)
