"""Where keys come from: valid values of the two settings, and the keys that production refuses."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from loginpipe.common.errors import KeyFileError, OpeningError
from loginpipe.custody.opening import open_value, unwrap
from loginpipe.masking.compat import SALTED, CompatMasking
from loginpipe.masking.key_files import generate_seal_key, generate_token_keys, private_half, read_seal_key
from loginpipe.masking.keys import SEAL_OFF, key_file, load_compat, load_seal_keys, load_token_keys
from loginpipe.masking.private_files import create_private_file
from loginpipe.masking.sealing import seal
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


def test_the_home_folder_of_no_one_is_refused_like_any_absent_file() -> None:
    with pytest.raises(KeyFileError):
        load_token_keys("file:~no_one-of-this-name/keys.json", production=False)


def test_a_relative_path_is_seen_from_the_current_folder(tmp_path: Path) -> None:
    generate_token_keys(tmp_path / "keys" / "token_keys.json", development=True)
    assert Path.cwd() == tmp_path
    assert load_token_keys("file:keys/token_keys.json", production=False).current == 1


# --- several recipients -----------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path, key_files: KeyFiles) -> tuple[str, list[str]]:
    """Return the setting that names two keys, and their fingerprints."""
    offline = tmp_path / "offline_public.pem"
    generate_seal_key(offline)
    paths = [key_files.seal_public, offline]
    return ",".join(f"file:{path}" for path in paths), [read_seal_key(path).fingerprint for path in paths]


def test_several_keys_are_recipients_in_the_order_of_the_setting(two: tuple[str, list[str]]) -> None:
    uris, fingerprints = two
    keys = load_seal_keys(uris, fingerprint=None, production=False)
    assert [key.fingerprint for key in keys] == fingerprints


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("between", [",", ", ", "\n,\t"], ids=ascii)
def test_fingerprints_may_stand_in_any_order(two: tuple[str, list[str]], order: int, between: str) -> None:
    uris, fingerprints = two
    keys = load_seal_keys(uris, fingerprint=between.join(fingerprints[::order]), production=True)
    assert [key.fingerprint for key in keys] == fingerprints


@pytest.mark.parametrize("production", [True, False])
@pytest.mark.parametrize("pinned", [0, 1])
def test_where_one_is_pinned_each_must_be(two: tuple[str, list[str]], pinned: int, production: bool) -> None:
    uris, fingerprints = two
    with pytest.raises(KeyFileError, match="not the one in LOGINPIPE_SEAL_KEY_FINGERPRINT") as caught:
        load_seal_keys(uris, fingerprint=fingerprints[pinned], production=production)
    assert fingerprints[1 - pinned] in str(caught.value)


def test_production_demands_that_all_are_pinned_and_says_to_what(two: tuple[str, list[str]]) -> None:
    uris, fingerprints = two
    with pytest.raises(KeyFileError, match="LOGINPIPE_SEAL_KEY_FINGERPRINT is not set") as caught:
        load_seal_keys(uris, fingerprint=None, production=True)
    assert str(caught.value).endswith(f"are the right keys, set it to {','.join(fingerprints)}")


@pytest.mark.parametrize("production", [True, False])
def test_a_recipient_that_was_left_out_is_noticed(two: tuple[str, list[str]], production: bool) -> None:
    uris, fingerprints = two
    with pytest.raises(KeyFileError, match="pins 2 keys and LOGINPIPE_SEAL_KEY names 1"):
        load_seal_keys(uris.split(",")[0], fingerprint=",".join(fingerprints), production=production)


def test_a_recipient_that_is_named_twice_is_refused(seal_uri: str) -> None:
    with pytest.raises(KeyFileError, match="names one key twice"):
        load_seal_keys(f"{seal_uri},{seal_uri}", fingerprint=None, production=False)


def test_what_is_sealed_for_several_opens_with_any_of_them(two: tuple[str, list[str]]) -> None:
    uris, fingerprints = two
    recipients = load_seal_keys(uris, fingerprint=None, production=False)
    sealed = seal([("ip.v1.x", b"199.172.111.135")], "ip", recipients)
    privates = [private_half(Path(uri.removeprefix("file:"))) for uri in uris.split(",")]
    assert [key.recipient for key in sealed.data_keys] == fingerprints
    for wrapped, path in zip(sealed.data_keys, privates, strict=True):
        private = load_pem_private_key(path.read_bytes(), None)
        assert isinstance(private, RSAPrivateKey)
        data_key = unwrap(wrapped, private)
        assert open_value(sealed.values[0], data_key, fingerprints[::-1]) == b"199.172.111.135"
    with pytest.raises(OpeningError):
        open_value(sealed.values[0], data_key, fingerprints[:1])


# --- the salt of a compat masking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("salt", [None, "file:absent"])
@pytest.mark.parametrize("name", ["compat-sha256", "compat-sha256-base64", "compat-md5"])
def test_a_masking_without_a_salt_asks_for_none(name: str, salt: str | None) -> None:
    assert load_compat(name, salt, production=True) == CompatMasking(name)


def test_tokens_are_no_older_scheme() -> None:
    assert load_compat("hmac-sha256", "file:absent", production=True) is None


def test_the_salted_masking_reads_its_salt_from_a_file(tmp_path: Path) -> None:
    create_private_file(tmp_path / "salt", b"pepper\n")
    assert load_compat(SALTED, f"file:{tmp_path / 'salt'}", production=True) == CompatMasking(SALTED, b"pepper")


@pytest.mark.parametrize(
    ("salt", "said"),
    [
        (None, "LOGINPIPE_COMPAT_SALT is not set, and compat-sha256-salted needs it"),
        ("geheim", "LOGINPIPE_COMPAT_SALT must be a file: or secretsmanager: URI"),
        ("awskms:alias/geheim", "LOGINPIPE_COMPAT_SALT must be a file: or secretsmanager: URI"),
        ("file:absent", "the salt file absent cannot be read (No such file or directory)"),
        ("file:empty", "LOGINPIPE_COMPAT_SALT names an empty salt"),
    ],
)
def test_a_salt_that_is_not_there_is_refused_and_never_taken_for_none(salt: str | None, said: str) -> None:
    create_private_file(Path("empty"), b"\n")
    with pytest.raises(KeyFileError) as caught:
        load_compat(SALTED, salt, production=False)
    assert str(caught.value).startswith(said)
    assert "geheim" not in str(caught.value)
