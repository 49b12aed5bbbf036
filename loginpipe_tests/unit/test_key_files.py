"""Key files: written completely, only for their owner, and only once; read only if they are what they should be."""

import json
import os
import resource
import secrets
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.key_files import (
    generate_seal_key,
    generate_token_keys,
    private_half,
    read_salt,
    read_seal_key,
    read_token_keys,
    rotate_token_keys,
)
from loginpipe.masking.tokens import MAX_VERSION, derive_field_keys
from loginpipe_tests.conftest import KeyFiles

KEY = bytes(range(32))
KEY_TEXT = b64encode(KEY).decode()
PEM = serialization.Encoding.PEM
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def token_key_file(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def document(**changes: object) -> str:
    return json.dumps({"current": 1, "development": False, "keys": {"1": KEY_TEXT}, **changes})


def refusal(read: Callable[[], object], *, of: bytes = KEY) -> str:
    """Return the message of a `KeyFileError`; check that it is one line, and that no part of the key is in it."""
    with pytest.raises(KeyFileError) as caught:
        read()
    error = caught.value
    assert "\n" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    text = b64encode(of).decode()
    shown = str(error) + repr(error)
    assert not [start for start in range(0, len(text) - 8, 4) if text[start : start + 8] in shown]
    return str(error)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Act as a full disk: a write fails half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# --- made -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_key_files_are_made_for_their_owner_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        generate_token_keys(tmp_path / "token_keys.json", development=False)
    assert mode_of(tmp_path / "token_keys.json") == 0o600


def test_the_private_half_of_a_seal_key_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with umask(0):
        private = generate_seal_key(tmp_path / "seal_public.pem")
    assert mode_of(private) == 0o600
    assert mode_of(tmp_path / "seal_public.pem") & 0o022 == 0, "nobody else may change the public half"


@pytest.mark.parametrize("development", [True, False])
def test_a_new_token_key_is_read_back_as_version_1(tmp_path: Path, development: bool) -> None:
    path = tmp_path / "new" / "folder" / "token_keys.json"
    generate_token_keys(path, development=development)
    keys = read_token_keys(path)
    assert (keys.current, keys.development, set(keys.field_keys)) == (1, development, {1})
    (text,) = json.loads(path.read_text())["keys"].values()
    assert keys.field_keys[1] == derive_field_keys(b64decode(text))


def test_no_two_new_token_keys_are_alike(tmp_path: Path) -> None:
    for name in ("a", "b"):
        generate_token_keys(tmp_path / name, development=True)
    assert read_token_keys(tmp_path / "a").field_keys != read_token_keys(tmp_path / "b").field_keys


def test_a_new_seal_key_has_its_private_half_beside_it(tmp_path: Path) -> None:
    public = tmp_path / "keys" / "seal_public.pem"
    private = generate_seal_key(public)
    assert private == tmp_path / "keys" / "seal_private.pem"
    assert sorted(public.parent.iterdir()) == [private, public]
    loaded = serialization.load_pem_private_key(private.read_bytes(), password=None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    assert loaded.key_size == 3072
    assert loaded.public_key() == read_seal_key(public).public_key
    assert b"PRIVATE" not in public.read_bytes()


@pytest.mark.parametrize(
    ("public", "private"),
    [
        ("seal_public.pem", "seal_private.pem"),
        ("seal.pem", "seal_private.pem"),
        ("public", "public_private"),
        ("a_public_b.pem", "a_public_b_private.pem"),
    ],
)
def test_the_private_half_is_named_after_the_public_one(public: str, private: str) -> None:
    assert private_half(Path("/keys") / public) == Path("/keys") / private


def test_a_token_key_file_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    path = token_key_file(tmp_path / "token_keys.json", "precious", 0o640)
    message = refusal(lambda: generate_token_keys(path, development=True))
    assert str(path) in message
    assert "never overwritten" in message
    assert (path.read_text(), mode_of(path)) == ("precious", 0o640)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("existing", ["seal_public.pem", "seal_private.pem"])
def test_where_one_half_of_a_seal_key_exists_neither_is_made(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    assert existing in refusal(lambda: generate_seal_key(tmp_path / "seal_public.pem"))
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "token_keys.json"
    link.symlink_to(tmp_path / "elsewhere")
    refusal(lambda: generate_token_keys(link, development=True))
    assert list(tmp_path.iterdir()) == [link]


def test_no_private_half_is_left_behind_where_the_public_one_cannot_be_made(tmp_path: Path) -> None:
    public = tmp_path / "seal_public.pem"
    public.symlink_to(tmp_path / "elsewhere")
    refusal(lambda: generate_seal_key(public))
    assert list(tmp_path.iterdir()) == [public]


@pytest.mark.parametrize("size", [0, 1, 50])
def test_a_disk_that_fills_up_leaves_no_half_of_a_file(tmp_path: Path, size: int) -> None:
    with no_file_longer_than(size):
        messages = [
            refusal(lambda: generate_token_keys(tmp_path / "token_keys.json", development=True)),
            refusal(lambda: generate_seal_key(tmp_path / "seal_public.pem")),
        ]
    assert all("cannot be written" in message for message in messages)
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_make_one_file_at_once_one_does(tmp_path: Path) -> None:
    path, start, outcomes = tmp_path / "token_keys.json", threading.Barrier(8), []

    def make() -> None:
        start.wait()
        try:
            generate_token_keys(path, development=True)
        except KeyFileError:
            outcomes.append("refused")
        else:
            outcomes.append("made")

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", *["refused"] * 7]
    assert read_token_keys(path).current == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_said_to_be_the_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(lambda: generate_token_keys(tmp_path / "file" / "token_keys.json", development=True))
    assert "never overwritten" not in message, "the key file does not exist"


# --- read -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_for_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    keys = read_token_keys(token_key_file(tmp_path / "keys.json", document(), mode))
    assert keys.field_keys == {1: derive_field_keys(KEY)}


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o660, 0o666, 0o604, 0o601, 0o610, 0o602, 0o777])
def test_a_file_that_others_may_touch_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    path = token_key_file(tmp_path / "keys.json", document(), mode)
    message = refusal(lambda: read_token_keys(path))
    assert f"{mode:04o}" in message
    assert f"chmod 600 {path}" in message


@pytest.mark.parametrize("read", [read_token_keys, read_seal_key])
def test_an_absent_file_or_a_folder_is_refused_and_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    tmp_path.chmod(0o700)
    for path in (tmp_path / "absent", tmp_path):
        message = refusal(lambda path=path: read(path))
        assert str(path) in message
        assert "cannot be read" in message


def test_every_version_in_a_file_is_read_and_the_current_one_named(tmp_path: Path) -> None:
    other = b64encode(b"x" * 32).decode()
    path = token_key_file(tmp_path / "k", document(current=2, keys={"1": KEY_TEXT, "2": other}))
    keys = read_token_keys(path)
    assert keys.current == 2
    assert keys.field_keys == {1: derive_field_keys(KEY), 2: derive_field_keys(b"x" * 32)}


def test_the_largest_version_is_read(tmp_path: Path) -> None:
    content = document(current=MAX_VERSION, keys={str(MAX_VERSION): KEY_TEXT})
    assert read_token_keys(token_key_file(tmp_path / "k", content)).current == MAX_VERSION == 2**15 - 1


def test_a_file_that_does_not_say_so_holds_no_development_key(tmp_path: Path) -> None:
    content = json.dumps({"current": 1, "keys": {"1": KEY_TEXT}})
    assert not read_token_keys(token_key_file(tmp_path / "k", content)).development


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_as_a_windows_editor_saves_it_is_read(tmp_path: Path, encoding: str) -> None:
    path = token_key_file(tmp_path / "k", document().encode(encoding))
    assert read_token_keys(path).field_keys == {1: derive_field_keys(KEY)}


MALFORMED = {
    "empty": "",
    "white space": " \n",
    "no JSON": "current: 1",
    "the bare key": KEY_TEXT,
    "the raw key": KEY,
    "cut short": document()[:-2],
    "no UTF-8": b"\xff\xfe" + document().encode(),
    "NUL": b"\x00",
    "an array": f'["{KEY_TEXT}"]',
    "a string": f'"{KEY_TEXT}"',
    "a number": "1",
    "null": "null",
    "an empty object": "{}",
    "no current": json.dumps({"keys": {"1": KEY_TEXT}}),
    "no keys": json.dumps({"current": 1}),
    "keys empty": document(keys={}),
    "keys null": document(keys=None),
    "keys an array": document(keys=[KEY_TEXT]),
    "keys a string": document(keys=KEY_TEXT),
    "a key null": document(keys={"1": None}),
    "a key a number": document(keys={"1": 7}),
    "a key an array": document(keys={"1": [KEY_TEXT]}),
    "a key an object": document(keys={"1": {"key": KEY_TEXT}}),
    "a key empty": document(keys={"1": ""}),
    "a key too short": document(keys={"1": b64encode(KEY[:31]).decode()}),
    "a key too long": document(keys={"1": b64encode(KEY + b"x").decode()}),
    "a key in hex": document(keys={"1": KEY.hex()}),
    "a key not base64": document(keys={"1": "!" + KEY_TEXT[1:]}),
    "a key without padding": document(keys={"1": KEY_TEXT.rstrip("=")}),
    "a key and a line feed": document(keys={"1": KEY_TEXT + "\n"}),
    "a key of other letters": document(keys={"1": "\u00e4" * 44}),
    "another version's key too short": document(keys={"1": KEY_TEXT, "2": b64encode(KEY[:16]).decode()}),
    "current not there": document(current=2),
    "current null": document(current=None),
    "current an array": document(current=[1]),
    "current text": document(current="one"),
    "current not a number": document().replace('"current": 1', '"current": NaN'),
    "current infinite": document().replace('"current": 1', '"current": Infinity'),
    "current beyond a double": document().replace('"current": 1', '"current": 1e400'),
    "current of 5,000 digits": document().replace('"current": 1', '"current": ' + "9" * 5000),
    "current 0": document(current=0, keys={"0": KEY_TEXT}),
    "current negative": document(current=-1, keys={"-1": KEY_TEXT}),
    "version 0 beside the current one": document(keys={"0": KEY_TEXT, "1": KEY_TEXT}),
    "version a word": document(keys={KEY_TEXT: "1"}),
    "version a fraction": document(current=1, keys={"1.0": KEY_TEXT}),
    "version beyond a smallint": document(current=32_768, keys={"32768": KEY_TEXT}),
    "version beyond what a token's pattern matches": document(current=100_000, keys={"100000": KEY_TEXT}),
    "another version beyond a smallint": document(keys={"1": KEY_TEXT, "32768": KEY_TEXT}),
    "nested 100,000 deep": "[" * 100_000,
    "keys nested 100,000 deep": '{"current": 1, "keys": ' + '{"1":' * 100_000,
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_token_key_file_is_refused_in_one_line_that_quotes_nothing_of_it(
    tmp_path: Path, content: str | bytes
) -> None:
    path = token_key_file(tmp_path / "token_keys.json", content)
    assert str(path) in refusal(lambda: read_token_keys(path))


# --- the public key ---------------------------------------------------------------------------------------------------

UNKNOWN_CURVE = b"""-----BEGIN PUBLIC KEY-----
MDIwEAYHKoZIzj0CAQYFK4EEAAYDHgAEE+d7JUtnpUYYboVXBmfXAqBnq1CJbVaH
SutekQ==
-----END PUBLIC KEY-----
"""


@pytest.fixture(scope="module")
def short_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def test_a_private_key_given_as_the_public_one_is_refused_and_not_quoted(key_files: KeyFiles) -> None:
    content = key_files.seal_private.read_bytes()
    message = refusal(lambda: read_seal_key(key_files.seal_private), of=b64decode(b"".join(content.splitlines()[1:-1])))
    assert "private half" in message


def test_a_private_key_in_the_older_form_is_refused_too(tmp_path: Path, short_key: rsa.RSAPrivateKey) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(
        short_key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    assert "private half" in refusal(lambda: read_seal_key(path))


@pytest.mark.parametrize("private_first", [True, False])
def test_a_file_that_holds_both_halves_is_refused(tmp_path: Path, key_files: KeyFiles, private_first: bool) -> None:
    """The pipeline must not be able to read the key that opens its vault."""
    halves = [key_files.seal_private.read_bytes(), key_files.seal_public.read_bytes()]
    path = tmp_path / "key.pem"
    path.write_bytes(b"".join(halves if private_first else halves[::-1]))
    assert "private half" in refusal(lambda: read_seal_key(path))


def test_a_key_of_2048_bits_is_refused(tmp_path: Path, short_key: rsa.RSAPrivateKey) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(short_key.public_key().public_bytes(PEM, PUBLIC))
    assert "3072 bits" in refusal(lambda: read_seal_key(path))


def test_a_longer_key_than_ours_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    key = rsa.generate_private_key(public_exponent=65537, key_size=3200).public_key()
    path.write_bytes(key.public_bytes(PEM, PUBLIC))
    assert read_seal_key(path).public_key == key


@pytest.mark.parametrize(
    "content",
    [
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(PEM, PUBLIC),
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(PEM, PUBLIC),
        UNKNOWN_CURVE,
        b"",
        b"\x00",
        secrets.token_bytes(400),
        b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\nMIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEA\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ user@host\n",
    ],
    ids=["elliptic curve", "Ed25519", "a curve no one knows", "empty", "NUL", "random bytes", "empty PEM", "short PEM",
         "cut short", "certificate", "OpenSSH"],
)  # fmt: skip
def test_what_is_no_public_rsa_key_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    assert str(path) in refusal(lambda: read_seal_key(path))


# --- rotated ----------------------------------------------------------------------------------------------------------


def test_a_rotation_adds_a_version_keeps_the_older_ones_and_leaves_one_file_for_its_owner(tmp_path: Path) -> None:
    path = token_key_file(tmp_path / "keys.json", document())
    returned = rotate_token_keys(path)
    keys = read_token_keys(path)
    assert keys == returned
    assert (keys.current, set(keys.field_keys)) == (2, {1, 2})
    assert keys.field_keys[1] == derive_field_keys(KEY)
    assert mode_of(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("development", [True, False])
def test_a_rotation_makes_no_development_key_fit_for_production(tmp_path: Path, development: bool) -> None:
    path = token_key_file(tmp_path / "keys.json", document(development=development))
    assert rotate_token_keys(path).development is development


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    path = token_key_file(tmp_path / "keys.json", document())
    link = tmp_path / "elsewhere" / "link.json"
    link.parent.mkdir()
    link.symlink_to(path)
    rotate_token_keys(link)
    assert link.readlink() == path
    assert read_token_keys(path).current == 2
    assert list(link.parent.iterdir()) == [link]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_rotation_by_root_leaves_the_file_to_its_owner(tmp_path: Path) -> None:
    path = token_key_file(tmp_path / "keys.json", document())
    os.chown(path, 12345, 23456)
    rotate_token_keys(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (12345, 23456, 0o600)


def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = token_key_file(tmp_path / "keys.json", document())
    before = path.read_bytes()
    with no_file_longer_than(50):
        assert "cannot be written" in refusal(lambda: rotate_token_keys(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_an_interrupted_rotation_left_behind_goes_with_the_next_one(tmp_path: Path) -> None:
    path = token_key_file(tmp_path / "keys.json", document())
    (tmp_path / ".keys.json.new").write_text('{"current": 2, "keys"')
    assert rotate_token_keys(path).current == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o644])
def test_a_file_that_others_may_touch_is_not_rotated(tmp_path: Path, mode: int) -> None:
    path = token_key_file(tmp_path / "keys.json", document(), mode)
    assert "chmod 600" in refusal(lambda: rotate_token_keys(path))
    assert path.read_text() == document()


def test_a_malformed_or_absent_file_is_not_rotated(tmp_path: Path) -> None:
    path = token_key_file(tmp_path / "keys.json", document()[:-2])
    assert "is no token key file" in refusal(lambda: rotate_token_keys(path))
    assert path.read_text() == document()[:-2]
    assert "cannot be read" in refusal(lambda: rotate_token_keys(tmp_path / "absent.json"))


def test_of_many_that_rotate_one_file_at_once_none_undoes_another(tmp_path: Path) -> None:
    path = token_key_file(tmp_path / "keys.json", document())
    start, made, refused = threading.Barrier(8), [], []

    def rotate() -> None:
        start.wait()
        try:
            made.append(rotate_token_keys(path).current)
        except KeyFileError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=rotate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) + len(refused) == 8
    assert sorted(made) == list(range(2, len(made) + 2))
    assert set(read_token_keys(path).field_keys) == {1, *made}
    assert all("is being changed by another process" in message for message in refused)
    assert list(tmp_path.iterdir()) == [path]


# --- the salt ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "salt"),
    [
        (b"pepper", b"pepper"),
        (b"pepper\n", b"pepper"),
        (b"pepper\r\n", b"pepper"),
        (b" pepper ", b" pepper "),
        (b"\xff\x00\n", b"\xff\x00"),
    ],
    ids=ascii,
)
def test_a_salt_is_the_file_without_the_line_break_that_ends_it(tmp_path: Path, content: bytes, salt: bytes) -> None:
    assert read_salt(token_key_file(tmp_path / "salt", content)) == salt


def test_a_salt_that_others_may_read_is_refused(tmp_path: Path) -> None:
    message = refusal(lambda: read_salt(token_key_file(tmp_path / "salt", "pepper", 0o644)))
    assert message == f"the salt file {tmp_path / 'salt'} has the mode 0644: run `chmod 600 {tmp_path / 'salt'}`"
