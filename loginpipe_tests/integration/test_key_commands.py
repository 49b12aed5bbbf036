"""`loginpipe keys`: what each command creates, prints and refuses. `test_cli.py` tests the files of `generate`."""

import json
import os
import pty
import subprocess
import sys
from base64 import b64encode
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
import psycopg2
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from loginpipe.masking.key_files import generate_seal_key, generate_token_keys, read_seal_key, read_token_keys
from loginpipe.masking.tokens import TokenKeyDocument
from loginpipe_tests.commands import Command
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.kms import new_key, seal_key
from loginpipe_tests.wire import logins, take

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

PASSPHRASE = "a horse and 4 staples"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyFiles:
    """Return the keys of this test, which the settings name."""
    files = KeyFiles(tmp_path / "keys" / "tokens.json", tmp_path / "keys" / "seal_public.pem")
    generate_token_keys(files.token_keys, development=True)
    generate_seal_key(files.seal_public)
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", "file:keys/tokens.json")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "file:keys/seal_public.pem")
    return files


# --- generate ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def seal_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", "file:tokens.json")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "file:seal_public.pem")
    return tmp_path / "seal_private.pem"


def at_a_terminal(*arguments: str, types: list[str]) -> tuple[int, str]:
    """Run a command at its own terminal and type a line at each prompt; return the exit code and the output."""
    child, terminal = pty.fork()
    if not child:
        program = "import signal; signal.alarm(60); from loginpipe.cli import main; main()"
        os.execv(sys.executable, [sys.executable, "-c", program, *arguments])
    seen, answered, lines = "", 0, iter(types)
    with suppress(OSError):  # Linux raises it at a terminal whose program has ended
        while said := os.read(terminal, 4096):
            seen += said.decode()
            # The last space of the prompt comes after the terminal has stopped echoing.
            if seen[answered:].endswith(": "):
                answered = len(seen)
                os.write(terminal, f"{next(lines)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen


def test_a_passphrase_is_asked_for_twice_and_never_shown(seal_setting: Path) -> None:
    code, seen = at_a_terminal("keys", "generate", "--passphrase", types=[PASSPHRASE, PASSPHRASE])
    assert code == 0, seen
    assert seen.count("Passphrase for seal_private.pem:") == 1
    assert "Repeat for confirmation:" in seen
    assert PASSPHRASE not in seen
    private = seal_setting.read_bytes()
    assert private.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    opened = load_pem_private_key(private, PASSPHRASE.encode())
    assert opened.public_key() == read_seal_key(seal_setting.with_name("seal_public.pem")).public_key


def test_two_passphrases_that_differ_are_asked_for_again(seal_setting: Path) -> None:
    code, seen = at_a_terminal(
        "keys", "generate", "--passphrase", types=[PASSPHRASE, "another", PASSPHRASE, PASSPHRASE]
    )
    assert code == 0, seen
    assert "do not match" in seen
    assert load_pem_private_key(seal_setting.read_bytes(), PASSPHRASE.encode())


def test_where_the_keys_are_there_no_passphrase_is_asked_for(loginpipe: Command, files: KeyFiles) -> None:
    before = files.seal_private.read_bytes()
    assert loginpipe("keys", "generate", "--if-missing", "--passphrase").code == 0
    assert files.seal_private.read_bytes() == before


def test_every_file_that_the_settings_name_is_made_and_keys_in_aws_are_left_to_aws(
    loginpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no network, because the machine that makes the break-glass key may have none."""
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", "awskms:alias/tokens")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "awskms:alias/seal, file:one_public.pem,file:two_public.pem")
    done = loginpipe("keys", "generate")
    assert (done.code, done.err) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {
        "one_public.pem", "one_private.pem", "two_public.pem", "two_private.pem",
    }  # fmt: skip
    fingerprints = [read_seal_key(tmp_path / f"{name}_public.pem").fingerprint for name in ("one", "two")]
    assert [line.split()[-1] for line in done.out.splitlines() if "fingerprint" in line] == fingerprints


# --- rotate -----------------------------------------------------------------------------------------------------------


def test_a_rotation_says_which_version_is_the_current_one_and_shows_no_key(loginpipe: Command, files: KeyFiles) -> None:
    done = loginpipe("keys", "rotate")
    assert done.out == "current version: 2; all versions: 1, 2\n"
    assert "Every machine that runs the pipeline needs these keys" in done.err
    assert loginpipe("keys", "rotate", "--json").json == {"current": 3, "versions": [1, 2, 3]}
    assert read_token_keys(files.token_keys).current == 3
    secrets = json.loads(files.token_keys.read_text())["keys"].values()
    assert not [secret for secret in secrets if secret in done.out + done.err]


def test_a_rotation_in_secrets_manager_puts_a_new_value(
    loginpipe: Command, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"loginpipe/{uuid4().hex}"
    client = boto3.session.Session().client("secretsmanager")
    client.create_secret(Name=name, SecretString=TokenKeyDocument(1, {1: bytes(32)}).text())
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"secretsmanager:{name}")
    assert loginpipe("keys", "rotate", "--json").json == {"current": 2, "versions": [1, 2]}
    document = json.loads(client.get_secret_value(SecretId=name)["SecretString"])
    assert (document["current"], document["keys"]["1"]) == (2, b64encode(bytes(32)).decode())


def test_a_rotation_in_kms_is_refused_with_what_to_do(loginpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", "awskms:alias/tokens")
    assert loginpipe("keys", "rotate").error == (
        "keys in KMS are rotated there: make an HMAC_256 key for GENERATE_VERIFY_MAC, say alias/tokens-2, and set "
        "LOGINPIPE_TOKEN_KEYS to awskms:v1=alias/tokens,v2=alias/tokens-2"
    )


# --- status -----------------------------------------------------------------------------------------------------------


def test_without_a_database_the_status_is_that_of_the_keys(
    loginpipe: Command, files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = read_seal_key(files.seal_public).fingerprint
    assert loginpipe("keys", "status", "--json").json == {
        "masking": "hmac-sha256",
        "token_keys": {
            "provider": "file",
            "versions": [1],
            "current": 1,
            "development": True,
            "recorded_versions": None,
            "sealed_values": None,
        },
        "seal_keys": [
            {"provider": "file", "place": "keys/seal_public.pem", "fingerprint": fingerprint, "pinned": False}
        ],
    }
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY_FINGERPRINT", fingerprint)
    done = loginpipe("keys", "status")
    assert done.out.splitlines() == [
        "masking     hmac-sha256",
        "token keys  file, for development only",
        "            version 1: current",
        f"seal key    keys/seal_public.pem: {fingerprint}, pinned",
    ]


def test_production_shows_what_it_would_refuse(
    loginpipe: Command, files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status shows the fingerprint to pin."""
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    status = loginpipe("keys", "status", "--json").json
    assert status["token_keys"]["development"]
    assert [key["pinned"] for key in status["seal_keys"]] == [False]


def test_the_status_of_keys_in_kms_and_of_the_offline_one(
    loginpipe: Command, kms: "KMSClient", key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [new_key(kms, "HMAC_256", "GENERATE_VERIFY_MAC") for _ in range(2)]
    seal = seal_key(kms)
    offline = read_seal_key(key_files.seal_public).fingerprint
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"awskms:v1={tokens[0]},v2={tokens[1]}")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", f"awskms:{seal},file:{key_files.seal_public}")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY_FINGERPRINT", offline)
    status = loginpipe("keys", "status", "--json").json
    assert (
        status["token_keys"] | {"provider": "awskms", "versions": [1, 2], "current": 2, "development": False}
        == (status["token_keys"])
    )
    assert [(key["provider"], key["pinned"]) for key in status["seal_keys"]] == [("awskms", False), ("file", True)]
    assert status["seal_keys"][0]["place"] == f"the KMS key {seal}"


def test_sealing_that_is_off_is_said(loginpipe: Command, files: KeyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    assert loginpipe("keys", "status").out.splitlines()[-1] == "seal key    off: nothing can be recovered"
    assert loginpipe("keys", "status", "--json").json["seal_keys"] == []


def test_the_status_counts_what_the_database_holds_of_each_version(
    loginpipe: Command, pipeline: Pipeline, files: KeyFiles
) -> None:
    pipeline.send(logins(3))
    assert take(pipeline, 3).success
    before = loginpipe("keys", "status", "--json").json["token_keys"]
    assert (before["recorded_versions"], before["sealed_values"]) == ([1], {"1": 6})
    loginpipe("keys", "rotate")
    assert "version 2: current, not in the database yet, 0 values in the vault" in loginpipe("keys", "status").out
    pipeline.send(logins(6)[3:])
    assert take(pipeline, 3).success
    after = loginpipe("keys", "status", "--json").json["token_keys"]
    assert (after["recorded_versions"], after["sealed_values"]) == ([1, 2], {"1": 6, "2": 6})
    assert [line.strip() for line in loginpipe("keys", "status").out.splitlines()[2:4]] == [
        "version 1: recorded in the database, 6 values in the vault",
        "version 2: current, recorded in the database, 6 values in the vault",
    ]


def test_a_version_that_the_database_knows_and_no_one_holds_is_shown(
    loginpipe: Command, settings_environment: dict[str, str], database_url: str
) -> None:
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO loginpipe.token_key_checks (key_version, check_value) VALUES (7, '\\x00')")
    assert (
        "version 7: missing on this machine, recorded in the database, 0 values in the vault"
        in loginpipe("keys", "status").out
    )


def test_values_of_an_older_masking_are_counted_apart(
    loginpipe: Command, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_MASKING", "compat-md5")
    pipeline.send(logins(2))
    assert take(pipeline, 2).success
    status = loginpipe("keys", "status", "--json").json
    assert status["masking"] == "compat-md5"
    assert status["token_keys"]["sealed_values"] == {"compat": 4}
    assert "no version (older masking): 4 values in the vault" in loginpipe("keys", "status").out


@pytest.mark.parametrize("role", ["analyst_url", "custodian_url", "auditor_url"])
def test_a_role_that_may_not_see_tokens_is_shown_the_keys_alone(
    loginpipe: Command, files: KeyFiles, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", request.getfixturevalue(role))
    status = loginpipe("keys", "status", "--json").json["token_keys"]
    assert status["sealed_values"] is None
    assert loginpipe("keys", "status").code == 0


def test_no_key_and_nothing_of_one_is_printed(loginpipe: Command, files: KeyFiles) -> None:
    (secret,) = json.loads(files.token_keys.read_text())["keys"].values()
    done = loginpipe("keys", "status")
    assert secret not in done.out + done.err
    as_a_process = subprocess.run(
        [sys.executable, "-c", "from loginpipe.cli import main; main()", "keys", "status", "--json"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert secret not in as_a_process.stdout + as_a_process.stderr
