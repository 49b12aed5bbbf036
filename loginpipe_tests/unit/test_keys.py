"""Where keys come from: what the two settings may say, and which keys production refuses."""

from pathlib import Path

import pytest

from loginpipe.errors import KeyFileError
from loginpipe.masking.key_files import generate_seal_key, generate_token_keys, read_seal_key
from loginpipe.masking.keys import SEAL_OFF, key_file, load_seal_keys, load_token_keys
from loginpipe_tests.conftest import KeyFiles


@pytest.fixture
def production_keys(tmp_path: Path) -> str:
    generate_token_keys(tmp_path / "production.json", development=False)
    return f"file:{tmp_path / 'production.json'}"


@pytest.fixture
def seal_uri(key_files: KeyFiles) -> str:
    return f"file:{key_files.seal_public}"


@pytest.fixture
def fingerprint(key_files: KeyFiles) -> str:
    return read_seal_key(key_files.seal_public).fingerprint


def test_a_development_key_is_taken_locally_and_refused_in_production(key_files: KeyFiles) -> None:
    uri = f"file:{key_files.token_keys}"
    assert load_token_keys(uri, production=False).development
    with pytest.raises(KeyFileError, match="development key") as caught:
        load_token_keys(uri, production=True)
    assert "loginpipe keys generate" in str(caught.value)


@pytest.mark.parametrize("production", [True, False])
def test_a_key_that_is_not_for_development_is_taken_everywhere(production_keys: str, production: bool) -> None:
    assert not load_token_keys(production_keys, production=production).development


def test_one_pinned_key_is_taken_in_production(seal_uri: str, fingerprint: str) -> None:
    (key,) = load_seal_keys(seal_uri, fingerprint=fingerprint, production=True)
    assert key.fingerprint == fingerprint


def test_production_demands_a_pinned_fingerprint_and_says_which(seal_uri: str, fingerprint: str) -> None:
    with pytest.raises(KeyFileError, match="LOGINPIPE_SEAL_KEY_FINGERPRINT is not set") as caught:
        load_seal_keys(seal_uri, fingerprint=None, production=True)
    assert fingerprint in str(caught.value)


def test_a_local_key_need_not_be_pinned(seal_uri: str) -> None:
    assert len(load_seal_keys(seal_uri, fingerprint=None, production=False)) == 1


@pytest.mark.parametrize("production", [True, False])
def test_another_key_than_the_pinned_one_is_refused_everywhere(
    tmp_path: Path, seal_uri: str, fingerprint: str, production: bool
) -> None:
    generate_seal_key(tmp_path / "seal_public.pem")
    with pytest.raises(KeyFileError, match="swapped"):
        load_seal_keys(f"file:{tmp_path / 'seal_public.pem'}", fingerprint=fingerprint, production=production)


@pytest.mark.parametrize("wrong", ["", "0" * 64, "off", "sha256:"])
def test_a_fingerprint_of_no_key_is_refused(seal_uri: str, wrong: str) -> None:
    with pytest.raises(KeyFileError, match="LOGINPIPE_SEAL_KEY_FINGERPRINT"):
        load_seal_keys(seal_uri, fingerprint=wrong, production=False)


def test_a_part_of_the_fingerprint_is_not_enough(seal_uri: str, fingerprint: str) -> None:
    for part in (fingerprint[:-1], fingerprint[:16], fingerprint + "0"):
        with pytest.raises(KeyFileError, match="LOGINPIPE_SEAL_KEY_FINGERPRINT"):
            load_seal_keys(seal_uri, fingerprint=part, production=False)


def test_a_fingerprint_may_be_written_as_other_tools_write_it(seal_uri: str, fingerprint: str) -> None:
    pairs = [fingerprint[at : at + 2] for at in range(0, 64, 2)]
    for written in (fingerprint.upper(), ":".join(pairs), ":".join(pairs).upper(), f" {fingerprint}\n"):
        assert len(load_seal_keys(seal_uri, fingerprint=written, production=True)) == 1


@pytest.mark.parametrize("production", [True, False])
def test_sealing_that_is_off_needs_no_key(production: bool) -> None:
    assert load_seal_keys(SEAL_OFF, fingerprint=None, production=production) == ()


@pytest.mark.parametrize(
    "uri",
    [
        "", ":", "file", "file:", "keys/secret-name.json", "/keys/secret-name.json", "FILE:secret-name",
        " file:secret-name", "https://user:secret-name@host/key", "s3://bucket/secret-name", "data:,secret-name", "Off",
        "OFF",
    ],
)  # fmt: skip
def test_what_names_no_provider_is_refused_and_not_quoted(uri: str) -> None:
    with pytest.raises(KeyFileError, match="LOGINPIPE_TOKEN_KEYS") as caught:
        load_token_keys(uri, production=False)
    assert "secret-name" not in str(caught.value)
    with pytest.raises(KeyFileError, match="LOGINPIPE_SEAL_KEY") as caught:
        load_seal_keys(uri, fingerprint=None, production=False)
    assert "secret-name" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:keys/a.json", "keys/a.json"),
        ("file:./keys/a.json", "keys/a.json"),
        ("file:/keys/a.json", "/keys/a.json"),
        ("file:///keys/a.json", "/keys/a.json"),
        ("file:C:a.json", "C:a.json"),
    ],
)
def test_a_file_uri_names_a_path(uri: str, path: str) -> None:
    assert key_file(uri, "LOGINPIPE_TOKEN_KEYS") == Path(path)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_file("file:~/keys/a.json", "LOGINPIPE_TOKEN_KEYS") == tmp_path / "keys" / "a.json"


def test_the_home_folder_of_nobody_is_refused_like_any_absent_file() -> None:
    with pytest.raises(KeyFileError):
        load_token_keys("file:~nobody-of-this-name/keys.json", production=False)


def test_a_relative_path_is_seen_from_the_current_folder(tmp_path: Path) -> None:
    generate_token_keys(tmp_path / "keys" / "token_keys.json", development=True)
    assert Path.cwd() == tmp_path
    assert load_token_keys("file:keys/token_keys.json", production=False).current == 1
