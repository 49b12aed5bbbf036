"""Valid settings for keys, and invalid settings for keys in AWS."""

from pathlib import Path

import pytest

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.keys import (
    FILE,
    KMS,
    KeyUri,
    key_path,
    key_uri,
    kms_keys_by_version,
    seal_key_uris,
    token_key_uri,
)

SETTING = "LOGINPIPE_TOKEN_KEYS"


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("file:keys/a.json", KeyUri("file", "keys/a.json")),
        ("awskms:alias/tokens", KeyUri("awskms", "alias/tokens")),
        ("awskms:arn:aws:kms:eu-west-1:1:key/k", KeyUri("awskms", "arn:aws:kms:eu-west-1:1:key/k")),
        ("secretsmanager:loginpipe/token-keys", KeyUri("secretsmanager", "loginpipe/token-keys")),
    ],
)
def test_a_uri_is_a_provider_and_the_name_of_a_key_there(text: str, uri: KeyUri) -> None:
    assert token_key_uri(text) == uri
    assert str(uri) == text


@pytest.mark.parametrize("text", ["vault:geheim", "geheim", "awskms:", "awskms: ", "AWSKMS:geheim", "file"])
def test_another_provider_is_refused_with_those_there_are_and_not_quoted(text: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        token_key_uri(text)
    message = str(caught.value)
    assert message.startswith(f"{SETTING} must be a file: or awskms: or secretsmanager: URI")
    assert "geheim" not in message


def test_a_provider_that_is_good_for_other_keys_is_refused() -> None:
    with pytest.raises(KeyFileError, match="LOGINPIPE_SEAL_KEY must be a file: or awskms: URI"):
        seal_key_uris("secretsmanager:seal")
    with pytest.raises(KeyFileError, match="must be a file: URI"):
        key_uri("awskms:alias/a", SETTING, (FILE,))


@pytest.mark.parametrize("text", ["awskms:alias/seal,file:keys/seal.pem", "awskms:alias/seal, \tfile:keys/seal.pem"])
def test_seal_keys_are_a_list_in_the_order_of_the_setting(text: str) -> None:
    assert seal_key_uris(text) == (KeyUri(KMS, "alias/seal"), KeyUri(FILE, "keys/seal.pem"))


@pytest.mark.parametrize(
    "text",
    ["file:a.pem,", ",file:a.pem", "file:a.pem,,file:b.pem", "off,file:a.pem", "file:a.pem,off", "file:a.pem b,c"],
)
def test_every_part_of_the_list_must_be_a_uri_and_off_stands_alone(text: str) -> None:
    with pytest.raises(KeyFileError, match="LOGINPIPE_SEAL_KEY must be"):
        seal_key_uris(text)


def test_sealing_that_is_off_names_no_key() -> None:
    assert seal_key_uris("off") == ()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("alias/one", {1: "alias/one"}),
        ("1234abcd-12ab-34cd-56ef-1234567890ab", {1: "1234abcd-12ab-34cd-56ef-1234567890ab"}),
        ("v1=alias/one", {1: "alias/one"}),
        ("v7=alias/seven", {7: "alias/seven"}),
        ("v1=alias/one,v2=alias/two", {1: "alias/one", 2: "alias/two"}),
        ("v2=alias/two, v1=alias/one", {1: "alias/one", 2: "alias/two"}),
        ("v1=arn:aws:kms:r:1:key/a,v32767=b", {1: "arn:aws:kms:r:1:key/a", 32_767: "b"}),
    ],
)
def test_keys_in_kms_are_one_or_one_a_version(name: str, keys: dict[int, str]) -> None:
    assert kms_keys_by_version(KeyUri(KMS, name), SETTING) == keys


@pytest.mark.parametrize(
    "name",
    ["alias/one,alias/two", "v1=alias/one,alias/two", "v1=alias/one,v1=alias/two", "v0=alias/one", "v01=alias/one",
     "v32768=alias/one", "v99999=alias/one", "v1=", "v1=alias/one,", "v1 =alias/one", "V1=alias/one",
     "v\u0661=alias/one", "version1=alias/one"],
)  # fmt: skip
def test_what_is_no_list_of_versions_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        kms_keys_by_version(KeyUri(KMS, name), SETTING)
    assert SETTING in str(caught.value)
    assert "awskms:v1=alias/one,v2=alias/two" in str(caught.value)


def test_one_key_under_two_versions_is_no_rotation() -> None:
    with pytest.raises(KeyFileError, match="one key under two versions"):
        kms_keys_by_version(KeyUri(KMS, "v1=alias/one,v2=alias/one"), SETTING)


def test_the_path_of_a_file_uri_may_be_written_as_browsers_write_it() -> None:
    assert key_path(KeyUri(FILE, "///keys/a.json"), SETTING) == Path("/keys/a.json")
