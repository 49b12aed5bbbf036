"""App versions as integers: the conversion is reversible, keeps the order, and maps no two versions to one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.logins.app_versions import MAX_MAJOR, decode_version, encode_version, is_version, loses_text

SPELLINGS = {
    "2.3.0": False,
    "2.3": False,
    "02.003.0": False,
    " 2.3.0": False,
    "2.3.0\n": False,
    "\u00a02.3.0 ": False,
    "v2.3.0": False,
    "V2.3": False,
    "2.3.0.0": False,
    "2.3.0.000": False,
    "2.3.0.4": True,
    "2.3.0.10": True,
    "2.3.0.20261128": True,
    "2.3.0-beta": True,
    "2.3-beta": True,
    "2.3.0-rc.1": True,
    "2.3.0-1": True,
    "2.3.0.4-SNAPSHOT": True,
    "2.3.0+45": True,
    "2.3+45": True,
    "2.3.0-rc.1+5": True,
    "2.3.0-alpha-2": True,
    "2.3.0 (45)": True,
    " v2.3.0.4-rc.1+5 (6)\t": True,
}
"""Spelling of 2.3.0 → whether its integer loses a part of it."""

LARGEST = 2_146_999_999
MAX_POSTGRES_INTEGER = 2**31 - 1

moderate = settings(max_examples=100, deadline=None, print_blob=True)
triples = st.tuples(st.integers(0, MAX_MAJOR), st.integers(0, 999), st.integers(0, 999))
version_like = st.text(alphabet="0123456789.. -+_v\n\x00", max_size=14)  # two dots, because versions have many

BROKEN = [
    "", " ", ".", "..", "1.", ".1", "1..2", "1.2.3.", ".1.2.3", "1.2.3.4.", "1.2.3.4.5", "1 .2", "1. 2", "v", "vv1",
    "v 1", "1.2.3b", "1-", "1+", "1.2.3-", "1.2.3 -beta", "1.2.3+1+2", "1.2.3 ()", "1.2.3(4)", "1.2.3-\u00e9",
    "1.2.3-a b", "-beta", "+45", "1-2", "1.2-3", "2026-11-28", "x1.2.3", "1.2.3/4", "1,2", "1/2", "1.x", "x", "true",
    "null", "None", "NaN", "inf", "-1", "+1", "1.-2", "1.+2", "-0", "1e3", "0x1", "1_0", "1.1000", "1.2.1000",
    "1.001000", "2147", "2147.0.0", "9999", "10000", "99999999999999999999", "1" + "0" * 30, "\u0661", "1.\u0662",
    "\uff11", "\u00b2", "\u2460", "\u0967.\u0968", "1\x00", "\x001", "1.2\u200b", "\ufeff1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("5", 5_000_000),
        ("0.96", 96_000),
        ("9.6", 9_006_000),
        ("2.3.0", 2_003_000),
        ("2.3", 2_003_000),
        ("1.0.999", 1_000_999),
        ("0.0.1", 1),
        ("2146.999.999", LARGEST),
    ],
)
def test_a_version_is_major_times_a_million_plus_minor_times_a_thousand_plus_patch(text: str, number: int) -> None:
    assert encode_version(text) == number


def test_0_96_and_9_6_are_two_versions() -> None:
    assert encode_version("0.96") != encode_version("9.6")


@pytest.mark.parametrize("padded", ["02.3.4", "2.03.4", "2.3.04", "0002.0003.0004", "2.0000000003.4"])
def test_leading_zeros_change_nothing(padded: str) -> None:
    assert encode_version(padded) == encode_version("2.3.4")


@pytest.mark.parametrize("text", SPELLINGS, ids=ascii)
def test_a_version_is_its_first_three_numbers_and_what_that_loses_is_known(text: str) -> None:
    assert encode_version(text) == 2_003_000
    assert loses_text(text) is SPELLINGS[text]


@moderate
@given(triples)
def test_a_version_comes_back_from_its_integer(triple: tuple[int, int, int]) -> None:
    text = "{}.{}.{}".format(*triple)
    assert decode_version(encode_version(text)) == text
    assert not loses_text(text)


@moderate
@given(st.integers(0, LARGEST))
def test_an_integer_comes_back_from_its_version(number: int) -> None:
    assert encode_version(decode_version(number)) == number


@moderate
@given(triples, triples)
def test_integers_are_in_the_order_of_their_versions_and_equal_only_where_those_are(
    left: tuple[int, int, int], right: tuple[int, int, int]
) -> None:
    encoded_left, encoded_right = encode_version("{}.{}.{}".format(*left)), encode_version("{}.{}.{}".format(*right))
    assert (encoded_left < encoded_right) == (left < right)
    assert (encoded_left == encoded_right) == (left == right)


@moderate
@given(triples)
def test_components_left_out_count_as_zero(triple: tuple[int, int, int]) -> None:
    major, minor, _ = triple
    assert encode_version(f"{major}") == encode_version(f"{major}.0.0")
    assert encode_version(f"{major}.{minor}") == encode_version(f"{major}.{minor}.0")


def test_the_largest_version_fits_postgres_integer_and_the_next_major_would_not() -> None:
    assert encode_version(f"{MAX_MAJOR}.999.999") <= MAX_POSTGRES_INTEGER
    assert (MAX_MAJOR + 1) * 1_000_000 + 999_999 > MAX_POSTGRES_INTEGER


@pytest.mark.parametrize("text", BROKEN, ids=ascii)
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="version"):
        encode_version(text)
    assert not is_version(text)
    assert not loses_text(text)


@pytest.mark.parametrize("text", ["1.1000", "1.2.1000", "0.1000.0"])
def test_a_version_with_a_minor_or_patch_above_999_is_refused(text: str) -> None:
    assert not is_version(text)


@pytest.mark.parametrize("text", ["2147", "2147.0", "2147.0.0", "9999.1", "10000"])
def test_a_version_with_a_major_above_2146_is_refused(text: str) -> None:
    assert not is_version(text)


@moderate
@given(version_like | st.text(max_size=20))
def test_any_text_is_a_version_or_refused_without_being_quoted(text: str) -> None:
    try:
        number = encode_version(text)
    except ValueError as error:
        assert str(error) in {  # noqa: PT017 - both outcomes are right; neither may quote
            "not a version of one to three numeric components",
            "major version above 2146",
        }
        assert not is_version(text)
    else:
        assert is_version(text)
        assert 0 <= number <= LARGEST


@pytest.mark.parametrize("number", [-1, LARGEST + 1, 2**31, -(2**31)])
def test_an_integer_that_no_version_has_does_not_decode(number: int) -> None:
    with pytest.raises(ValueError, match="not an encoded version"):
        decode_version(number)
