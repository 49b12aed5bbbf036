"""Masking by older schemes: exactly the values that those schemes made."""

import pytest

from loginpipe.common.settings import Settings
from loginpipe.masking.compat import BASE64, HMAC, MD5, PLAIN, SALTED, CompatMasking, received

# Made with `printf %s … | openssl dgst`, independently of the code under test.
KNOWN = [
    (CompatMasking(PLAIN), b"1.2.3.4", "6694f83c9f476da31f5df6bcc520034e7e57d421d247b9d34f49edbfc84a764c"),
    (CompatMasking(SALTED, b"salt"), b"1.2.3.4", "63c9490119d110b7d3806c2e447108a85046a9072c5bca243587b95b9ddf02e8"),
    (CompatMasking(BASE64), b"1.2.3.4", "ZpT4PJ9HbaMfXfa8xSADTn5X1CHSR7nTT0ntv8hKdkw="),
    (CompatMasking(MD5), b"1.2.3.4", "6465ec74397c9126916786bbcd6d7601"),
    (CompatMasking(MD5), b"caf\xc3\xa9", "07117fe4a1ebd544965dc19573183da2"),
]


@pytest.mark.parametrize(
    ("masking", "value", "masked"), KNOWN, ids=["plain", "salted", "base64", "md5", "md5 of UTF-8"]
)
def test_a_value_is_masked_as_the_older_scheme_masked_it(masking: CompatMasking, value: bytes, masked: str) -> None:
    assert masking.tokens([value, value]) == [masked, masked]
    assert masking.pattern.fullmatch(masked)


def test_the_salt_goes_before_the_value() -> None:
    assert CompatMasking(SALTED, b"1.2.").tokens([b"3.4"]) == CompatMasking(SALTED, b"1").tokens([b".2.3.4"])
    assert CompatMasking(SALTED, b"a").tokens([b"b"]) != CompatMasking(SALTED, b"b").tokens([b"a"])


@pytest.mark.parametrize("text", ["1.2.3.4", " 1.2.3.4", "\t1.2.3.4\r\n"])
def test_what_is_masked_is_the_text_without_the_white_space_around_it(text: str) -> None:
    assert received(text) == b"1.2.3.4"


def test_what_is_masked_is_not_made_canonical() -> None:
    assert received("::FFFF:1.2.3.4") == b"::FFFF:1.2.3.4"
    assert received("cafe\u0301") == "cafe\u0301".encode()
    assert received("1.2.3.4:5678") == b"1.2.3.4:5678"
    assert (
        received("6F9619FF-8B86-D011-B42D-00C04FC964FF\u200b") == "6F9619FF-8B86-D011-B42D-00C04FC964FF\u200b".encode()
    )


def test_every_masking_of_the_setting_is_one_of_these() -> None:
    allowed = Settings.model_json_schema()["properties"]["masking"]["enum"]
    assert allowed == [HMAC, PLAIN, SALTED, BASE64, MD5]


@pytest.mark.parametrize("name", [PLAIN, SALTED, BASE64, MD5])
def test_the_warning_names_the_masking_what_is_wrong_with_it_and_the_way_out(name: str) -> None:
    warning = CompatMasking(name, b"salt").warning
    assert name in warning
    assert "trying" in warning
    assert HMAC in warning
    assert "\n" not in warning


def test_the_salt_is_not_shown() -> None:
    assert "geheim" not in repr(CompatMasking(SALTED, b"geheim")) + str(CompatMasking(SALTED, b"geheim"))
