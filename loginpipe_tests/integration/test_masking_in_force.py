"""Whole runs with every kind of masking: older schemes, keys in AWS, a rotated key."""

import logging
from base64 import b64encode
from collections.abc import Callable
from hashlib import md5, sha256
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import dagster as dg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from loginpipe.common.settings import load_settings
from loginpipe.custody.opening import open_value, unwrap
from loginpipe.defs.resources import resources_from
from loginpipe.masking.key_files import generate_seal_key, generate_token_keys, read_seal_key, rotate_token_keys
from loginpipe.masking.keys import load_seal_keys, load_token_keys
from loginpipe.masking.private_files import create_private_file
from loginpipe.masking.sealing import SealedValue, WrappedDataKey
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.kms import seal_key, token_key
from loginpipe_tests.wire import Custodian, cause_of_failure, checks, ingest, login, metadata, take

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

SCHEMES: dict[str, Callable[[str], str]] = {
    "compat-sha256": lambda text: sha256(text.encode()).hexdigest(),
    "compat-sha256-salted": lambda text: sha256(b"pepper" + text.encode()).hexdigest(),
    "compat-sha256-base64": lambda text: b64encode(sha256(text.encode()).digest()).decode(),
    "compat-md5": lambda text: md5(text.encode(), usedforsecurity=False).hexdigest(),
}


@pytest.fixture
def _salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_private_file(tmp_path / "salt", b"pepper\n")
    monkeypatch.setenv("LOGINPIPE_COMPAT_SALT", "file:salt")


def warnings(pipeline: Pipeline, result: dg.ExecuteInProcessResult) -> list[str]:
    """Return the warnings in the run's log, as Dagster stores it."""
    entries = pipeline.instance.all_logs(result.run_id)
    return [entry.user_message for entry in entries if entry.level == logging.WARNING]


# --- older schemes ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_salt")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_table_of_an_older_scheme_gets_rows_that_join_with_it(
    pipeline: Pipeline, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_MASKING", scheme)
    mask = SCHEMES[scheme]
    spellings = [
        (" 1.2.3.4 ", "cafe\u0301\t"),
        ("::ffff:1.2.3.4", "caf\u00e9"),
        ("1.2.3.4:80", "6F9619FF-8B86-D011-B42D-00C04FC964FF"),
    ]
    result = ingest(pipeline, *(login(ip=ip, device_id=device) for ip, device in spellings))
    assert sorted(pipeline.rows("SELECT masked_ip, masked_device_id FROM user_logins")) == sorted(
        (mask(ip.strip()), mask(device.strip())) for ip, device in spellings
    )
    assert metadata(result)["masked_logins"]["masking"] == scheme
    assert checks(result)["only_tokens"]
    opened = Custodian(pipeline, key_files).values()
    assert opened == {mask(text.strip()): text.strip().encode() for pair in spellings for text in pair}


@pytest.mark.usefixtures("_salt")
@pytest.mark.parametrize("scheme", [*SCHEMES, "hmac-sha256"])
def test_an_older_scheme_is_warned_of_in_every_run(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_MASKING", scheme)
    for _ in range(2):
        result = ingest(pipeline, login())
        found = [warning for warning in warnings(pipeline, result) if "LOGINPIPE_MASKING" in warning]
        assert len(found) == (1 if scheme in SCHEMES else 0)
        assert all(warning.startswith(f"LOGINPIPE_MASKING is {scheme}: ") for warning in found)


def test_a_salted_scheme_without_its_salt_ends_a_run_before_it_has_received_a_message(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_MASKING", "compat-sha256-salted")
    pipeline.send([login()])
    assert cause_of_failure(take(pipeline, 1)).startswith("KeyFileError: LOGINPIPE_COMPAT_SALT is not set, and ")
    assert pipeline.depth() == (1, 0)


def test_an_older_scheme_needs_token_keys_all_the_same(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys make the tombstones of erased users, and are needed to leave the older scheme."""
    monkeypatch.setenv("LOGINPIPE_MASKING", "compat-md5")
    monkeypatch.delenv("LOGINPIPE_TOKEN_KEYS")
    pipeline.send([login()])
    assert cause_of_failure(take(pipeline, 1)).startswith("SettingError: LOGINPIPE_TOKEN_KEYS is not set")


def test_after_the_way_out_new_rows_hold_tokens(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setenv("LOGINPIPE_MASKING", "compat-md5")
        ingest(pipeline, login())
    ingest(pipeline, login())
    (first,), (second,) = sorted(pipeline.rows("SELECT masked_ip FROM user_logins"))
    assert first == SCHEMES["compat-md5"]("199.172.111.135")
    assert second.startswith("ip.v1.")


# --- keys in AWS ------------------------------------------------------------------------------------------------------


def test_a_run_with_every_key_in_aws_is_opened_by_kms(
    pipeline: Pipeline, kms: "KMSClient", key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, seal = token_key(kms), seal_key(kms)
    seal_keys = f"awskms:{seal},file:{key_files.seal_public}"
    fingerprints = [key.fingerprint for key in load_seal_keys(seal_keys, fingerprint=None, production=False)]
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"awskms:{tokens}")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", seal_keys)
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY_FINGERPRINT", ", ".join(reversed(fingerprints)))
    ingest(pipeline, login())
    keys = load_token_keys(f"awskms:{tokens}", production=True)
    rows = pipeline.rows(
        "SELECT token, data_key_id, position, ciphertext, recipient, wrapped_key FROM vault.sealed_values "
        "JOIN vault.data_keys USING (data_key_id) WHERE field = 'ip'"
    )
    assert sorted(recipient for *_, recipient, _ in rows) == sorted(fingerprints)
    for token, data_key_id, position, ciphertext, recipient, wrapped in rows:
        assert [token] == keys.tokens("ip", [bytes([199, 172, 111, 135])])
        if recipient == fingerprints[0]:
            answer = kms.decrypt(KeyId=seal, CiphertextBlob=bytes(wrapped), EncryptionAlgorithm="RSAES_OAEP_SHA_256")
            data_key = answer["Plaintext"]
        else:
            private = load_pem_private_key(key_files.seal_private.read_bytes(), None)
            assert isinstance(private, RSAPrivateKey)
            data_key = unwrap(WrappedDataKey(UUID(data_key_id), recipient, bytes(wrapped)), private)
        value = SealedValue(token, "ip", UUID(data_key_id), position, bytes(ciphertext))
        assert open_value(value, data_key, fingerprints) == b"199.172.111.135"


def test_a_key_that_is_disabled_in_kms_ends_a_run_before_it_has_received_a_message(
    pipeline: Pipeline, kms: "KMSClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    key = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
    kms.disable_key(KeyId=key)
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"awskms:{key}")
    pipeline.send([login()])
    assert cause_of_failure(take(pipeline, 1)) == (
        f"KeyFileError: the KMS key {key} is not enabled, its state is Disabled: enable it, or name another"
    )
    assert pipeline.depth() == (1, 0)


def test_a_second_recipient_that_is_not_pinned_ends_a_production_run(
    pipeline: Pipeline, key_files: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_token_keys(tmp_path / "tokens.json", development=False)
    generate_seal_key(tmp_path / "other_public.pem")
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", "file:tokens.json")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", f"file:{key_files.seal_public},file:other_public.pem")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY_FINGERPRINT", read_seal_key(key_files.seal_public).fingerprint)
    pipeline.send([login()])
    cause = cause_of_failure(take(pipeline, 1))
    assert cause.startswith("KeyFileError: other_public.pem has the fingerprint ")
    assert pipeline.depth() == (1, 0)


# --- a key that was rotated -------------------------------------------------------------------------------------------


@pytest.fixture
def token_keys(tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token_keys.json"
    generate_token_keys(path, development=True)
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{path}")
    return path


def devices(pipeline: Pipeline, table: str) -> list[tuple[int, int]]:
    """Return the numbers of distinct devices and addresses of a table."""
    return pipeline.rows(f"SELECT count(DISTINCT masked_device_id), count(DISTINCT masked_ip) FROM {table}")


def test_duplicates_are_counted_across_rotations_in_the_canonical_view(pipeline: Pipeline, token_keys: Path) -> None:
    ingest(pipeline, login(), login(device_id="other"))
    rotate_token_keys(token_keys)
    second = ingest(pipeline, login(), login(device_id="new"))
    rotate_token_keys(token_keys)
    third = ingest(pipeline, login(ip="::ffff:199.172.111.135"))
    assert metadata(second)["masked_logins"]["aliases"] == 3
    assert metadata(third)["masked_logins"]["aliases"] == 4
    assert metadata(third)["masked_logins"]["token_key_version"] == 3
    assert devices(pipeline, "user_logins") == [(5, 3)]
    assert devices(pipeline, "loginpipe.user_logins_canonical") == [(3, 1)]


def test_without_a_rotation_there_are_no_aliases(pipeline: Pipeline, token_keys: Path) -> None:
    result = ingest(pipeline, login())
    assert metadata(result)["masked_logins"]["aliases"] == 0
    assert pipeline.rows("SELECT count(*) FROM loginpipe.token_aliases") == [(0,)]


def test_what_a_rotated_key_makes_new_tokens_of_is_sealed_under_those_too(
    pipeline: Pipeline, token_keys: Path, key_files: KeyFiles
) -> None:
    ingest(pipeline, login())
    rotate_token_keys(token_keys)
    ingest(pipeline, login())
    opened = Custodian(pipeline, key_files).values()
    assert {token.rpartition(".")[0]: value for token, value in opened.items()} == {
        **dict.fromkeys(["ip.v1", "ip.v2"], b"199.172.111.135"),
        **dict.fromkeys(["dev.v1", "dev.v2"], b"593-47-5928"),
    }


# --- what Dagster stores of these runs --------------------------------------------------------------------------------


def test_the_resource_that_is_stored_with_every_run_holds_where_the_salt_is_and_not_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_private_file(tmp_path / "salt", b"geheim-4711")
    monkeypatch.setenv("LOGINPIPE_MASKING", "compat-sha256-salted")
    monkeypatch.setenv("LOGINPIPE_COMPAT_SALT", "file:salt")
    masking = resources_from(load_settings())["masking"]
    assert "file:salt" in repr(masking)
    assert "geheim" not in repr(masking)
