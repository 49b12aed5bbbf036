"""Private seal keys from files: who may read them, their passphrases, and files that are no private key."""

from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from loginpipe.common.errors import KeyFileError, OpeningError, PassphraseError
from loginpipe.custody.opening import Opener, Problem
from loginpipe.custody.private_keys import load_opener, private_uris
from loginpipe.masking.key_files import generate_seal_key, private_half, read_seal_key
from loginpipe.masking.sealing import OAEP, SealKey, WrappedDataKey
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.custody import ask_no_passphrase, opener_of, write_private_key

DATA_KEY = bytes(range(32))
WORDS = "correct horse battery"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def wrapped(key: SealKey, data_key: bytes = DATA_KEY) -> WrappedDataKey:
    return WrappedDataKey(uuid4(), key.fingerprint, key.public_key.encrypt(data_key, OAEP))


def load(*uris: object, passphrase: str | None = None) -> Opener:
    """Load private keys. Give the passphrase if it is asked for, and check that it is asked for only if given."""
    asked: list[Path] = []

    def answer(path: Path) -> str:
        asked.append(path)
        assert passphrase is not None, f"asked for the passphrase of {path}"
        return passphrase

    opener = load_opener([str(uri) for uri in uris], production=False, passphrase=answer)
    assert bool(asked) == (passphrase is not None)
    return opener


def refusal(*uris: object, passphrase: str | None = None) -> KeyFileError:
    """Return the error of a refused key; check that it is one line and does not quote the passphrase."""
    with pytest.raises(KeyFileError) as caught:
        load(*uris, passphrase=passphrase)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not passphrase or passphrase not in str(caught.value)
    return caught.value


# --- a file -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_a_data_key_is_unwrapped_with_the_private_half(key_files: KeyFiles, form: str) -> None:
    opener = load(form.format(key_files.seal_private))
    public = read_seal_key(key_files.seal_public)
    assert opener.fingerprints == {public.fingerprint}
    assert opener.unwrap([wrapped(public)]) == DATA_KEY


def test_several_keys_open_each_what_is_for_it(key_files: KeyFiles, tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    other, path = SealKey(key.public_key()), tmp_path / "other.pem"
    write_private_key(path, key)
    opener = load(key_files.seal_private, path)
    public = read_seal_key(key_files.seal_public)
    assert opener.fingerprints == {public.fingerprint, other.fingerprint}
    for each in (public, other):
        assert opener.unwrap([wrapped(each)]) == DATA_KEY
    alone = opener.only(other.fingerprint)
    assert alone.unwrap([wrapped(other)]) == DATA_KEY
    with pytest.raises(OpeningError) as caught:
        alone.unwrap([wrapped(public)])
    assert caught.value.problem == Problem.OTHER_RECIPIENT
    assert public.fingerprint[:16] in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666, 0o601])
def test_a_private_key_that_others_can_touch_is_refused_with_the_mend(
    tmp_path: Path, key: rsa.RSAPrivateKey, mode: int
) -> None:
    path = tmp_path / "key.pem"
    write_private_key(path, key)
    path.chmod(mode)
    assert str(refusal(path)) == f"the private key file {path} has the mode {mode:04o}: run `chmod 600 {path}`"


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_file_that_holds_no_private_key_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(content)
    assert str(refusal(path)).startswith(f"{path} has no private key in PEM")


def test_an_absent_file_a_folder_and_the_public_half_are_named(key_files: KeyFiles, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    for path in (tmp_path / "absent.pem", tmp_path / "folder", key_files.seal_public):
        assert str(path) in str(refusal(path))


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_private_key(path, ed25519.Ed25519PrivateKey.generate())
    assert "has no RSA key" in str(refusal(path))


def test_a_data_key_that_was_changed_is_told_from_one_for_another_key(key_files: KeyFiles) -> None:
    public = read_seal_key(key_files.seal_public)
    opener = opener_of(key_files.seal_private)
    good = wrapped(public)
    flipped = bytes([good.wrapped_key[0] ^ 1]) + good.wrapped_key[1:]
    for changed in (flipped, good.wrapped_key[:-1], b"", public.public_key.encrypt(b"short", OAEP)):
        with pytest.raises(OpeningError) as caught:
            opener.unwrap([WrappedDataKey(good.data_key_id, good.recipient, changed)])
        assert caught.value.problem == Problem.CHANGED
        assert str(good.data_key_id) in str(caught.value)


# --- a passphrase -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the public key whose private key has a passphrase, as `loginpipe keys generate` makes them."""
    public = tmp_path_factory.mktemp("locked") / "seal_public.pem"
    generate_seal_key(public, WORDS)
    return public


def test_a_key_behind_a_passphrase_opens_with_it(locked: Path) -> None:
    opener = load(private_half(locked), passphrase=WORDS)
    assert opener.unwrap([wrapped(read_seal_key(locked))]) == DATA_KEY


@pytest.mark.parametrize("typed", ["", "Correct horse battery", WORDS + " ", "é\udcff"])
def test_a_wrong_passphrase_is_an_error_of_its_own(locked: Path, typed: str) -> None:
    error = refusal(private_half(locked), passphrase=typed) if typed else _refused_unnamed(locked)
    assert isinstance(error, PassphraseError)
    assert str(error) == f"the passphrase is wrong for {private_half(locked)}: type it again"


def _refused_unnamed(locked: Path) -> KeyFileError:
    with pytest.raises(KeyFileError) as caught:
        load_opener([str(private_half(locked))], production=False, passphrase=lambda _: "")
    return caught.value


def test_a_key_that_openssl_has_encrypted_opens_too(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    path = tmp_path / "key.pem"
    write_private_key(path, key, serialization.BestAvailableEncryption(WORDS.encode()))
    assert load(path, passphrase=WORDS).fingerprints == {SealKey(key.public_key()).fingerprint}


def test_no_passphrase_is_asked_for_where_there_is_none(key_files: KeyFiles) -> None:
    load_opener([str(key_files.seal_private)], production=False, passphrase=ask_no_passphrase)


# --- by default -------------------------------------------------------------------------------------------------------


def test_the_private_half_is_looked_for_beside_the_public_one(key_files: KeyFiles) -> None:
    assert private_uris(f"file:{key_files.seal_public}") == [f"file:{key_files.seal_private}"]


def test_of_several_recipients_those_are_used_that_are_there(key_files: KeyFiles) -> None:
    here, kms, offline = f"file:{key_files.seal_public}", "awskms:alias/seal", "file:/offline/break_glass_public.pem"
    assert private_uris(f"{here},{kms},{offline}") == [f"file:{key_files.seal_private}", kms]
    assert private_uris(kms) == [kms]
    named = r"no private key at /offline/break_glass_private.pem: specify its place with --private-key"
    with pytest.raises(KeyFileError, match=named):
        private_uris(offline)


def test_where_sealing_is_off_the_key_must_be_named() -> None:
    with pytest.raises(KeyFileError, match=r"LOGINPIPE_SEAL_KEY is off: .* --private-key"):
        private_uris("off")
