"""Token keys and salts in AWS Secrets Manager, on the embedded endpoint: current, previous, rotated by us or by AWS."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
import pytest

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.compat import SALTED, CompatMasking
from loginpipe.masking.keys import load_compat, load_token_keys, rotate_token_keys
from loginpipe.masking.tokens import TokenKeyDocument, derive_field_keys
from loginpipe_tests.wire import PLAIN_WEB_SERVER, Wire, answers, refusal

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

A, B, C = (bytes([number]) * 32 for number in range(3))


@pytest.fixture
def secrets(aws: None) -> "SecretsManagerClient":
    return boto3.session.Session().client("secretsmanager")


@pytest.fixture
def wire(secrets: "SecretsManagerClient", monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)
    with Wire(secrets.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", wire.url)
        yield wire


@pytest.fixture
def name(secrets: "SecretsManagerClient") -> str:
    """Return the name of a secret that holds version 1."""
    name = f"loginpipe/{uuid4().hex}"
    secrets.create_secret(Name=name, SecretString=TokenKeyDocument(1, {1: A}).text())
    return name


def put(secrets: "SecretsManagerClient", name: str, keys: dict[int, bytes], *, development: bool = False) -> None:
    secrets.put_secret_value(SecretId=name, SecretString=TokenKeyDocument(max(keys), keys, development).text())


def rotated_by_aws(secrets: "SecretsManagerClient", name: str, text: str) -> None:
    """Do what a rotation function does: createSecret, setSecret, testSecret, finishSecret."""
    before = secrets.describe_secret(SecretId=name)["VersionIdsToStages"]
    pending = secrets.put_secret_value(SecretId=name, SecretString=text, VersionStages=["AWSPENDING"])["VersionId"]
    (current,) = (version for version, stages in before.items() if "AWSCURRENT" in stages)
    secrets.update_secret_version_stage(
        SecretId=name, VersionStage="AWSCURRENT", MoveToVersionId=pending, RemoveFromVersionId=current
    )


def held(name: str) -> tuple[int, dict[int, dict[str, bytes]]]:
    keys = load_token_keys(f"secretsmanager:{name}", production=False)
    return keys.current, dict(keys.field_keys)


def refused(load: Callable[[], object]) -> str:
    """Return the one line of a failed load; check that it neither shows the secret nor carries boto3's error."""
    with pytest.raises(KeyFileError) as caught:
        load()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "\n" not in str(caught.value)
    assert not [key for key in (A, B, C) if b64encode(key).decode()[:8] in str(caught.value)]
    return str(caught.value)


def test_a_secret_holds_what_a_file_would(name: str) -> None:
    assert held(name) == (1, {1: derive_field_keys(A)})


def test_a_secret_may_be_named_by_its_arn(secrets: "SecretsManagerClient", name: str) -> None:
    assert held(secrets.describe_secret(SecretId=name)["ARN"]) == held(name)


def test_a_rotation_puts_a_value_with_all_versions_and_the_new_one_current(
    secrets: "SecretsManagerClient", name: str
) -> None:
    returned = rotate_token_keys(f"secretsmanager:{name}", production=False)
    current, keys = held(name)
    assert (current, set(keys), keys[1]) == (2, {1, 2}, derive_field_keys(A))
    assert returned.field_keys == keys
    rotate_token_keys(f"secretsmanager:{name}", production=False)
    rotate_token_keys(f"secretsmanager:{name}", production=False)
    assert set(held(name)[1]) == {1, 2, 3, 4}, "no version was lost, though only two stages are kept"
    text = secrets.get_secret_value(SecretId=name)["SecretString"]
    assert set(json.loads(text)["keys"]) == {"1", "2", "3", "4"}


def test_a_rotation_of_awss_own_that_puts_the_new_key_alone_leaves_the_previous_one_readable(
    secrets: "SecretsManagerClient", name: str
) -> None:
    rotated_by_aws(secrets, name, TokenKeyDocument(2, {2: B}).text())
    assert held(name) == (2, {1: derive_field_keys(A), 2: derive_field_keys(B)})


def test_while_awss_rotation_is_pending_nothing_changes(secrets: "SecretsManagerClient", name: str) -> None:
    secrets.put_secret_value(
        SecretId=name, SecretString=TokenKeyDocument(2, {2: B}).text(), VersionStages=["AWSPENDING"]
    )
    assert held(name) == (1, {1: derive_field_keys(A)})


def test_our_rotation_after_awss_keeps_what_both_stages_held(secrets: "SecretsManagerClient", name: str) -> None:
    rotated_by_aws(secrets, name, TokenKeyDocument(2, {2: B}).text())
    rotate_token_keys(f"secretsmanager:{name}", production=False)
    put_by_hand = json.loads(secrets.get_secret_value(SecretId=name)["SecretString"])
    assert (put_by_hand["current"], set(put_by_hand["keys"])) == (3, {"1", "2", "3"})


def test_a_rotation_that_was_rolled_back_holds_both_and_says_which_is_current(
    secrets: "SecretsManagerClient", name: str
) -> None:
    put(secrets, name, {1: A, 2: B})
    stages = secrets.describe_secret(SecretId=name)["VersionIdsToStages"]
    (current,) = (version for version, of_it in stages.items() if "AWSCURRENT" in of_it)
    (previous,) = (version for version, of_it in stages.items() if "AWSPREVIOUS" in of_it)
    secrets.update_secret_version_stage(
        SecretId=name, VersionStage="AWSCURRENT", MoveToVersionId=previous, RemoveFromVersionId=current
    )
    assert held(name) == (1, {1: derive_field_keys(A), 2: derive_field_keys(B)})


def test_two_keys_under_one_version_are_refused_until_both_stages_agree(
    secrets: "SecretsManagerClient", name: str
) -> None:
    put(secrets, name, {1: A, 2: B})
    put(secrets, name, {1: A, 2: C})
    message = refused(lambda: held(name))
    assert message.startswith(f"the secret {name}: AWSCURRENT and AWSPREVIOUS hold two keys under version 2: ")
    put(secrets, name, {1: A, 2: B})
    put(secrets, name, {1: A, 2: B})
    assert held(name)[0] == 2


def test_development_keys_are_refused_in_production(secrets: "SecretsManagerClient", name: str) -> None:
    put(secrets, name, {1: A}, development=True)
    assert refused(lambda: load_token_keys(f"secretsmanager:{name}", production=True)) == (
        f"the secret {name} holds a development key, which production refuses: run `loginpipe keys generate`"
    )


@pytest.mark.parametrize("stage", ["AWSCURRENT", "AWSPREVIOUS"])
def test_a_stage_that_holds_no_token_keys_is_named(secrets: "SecretsManagerClient", name: str, stage: str) -> None:
    secrets.put_secret_value(SecretId=name, SecretString='{"password": "geheim"}')
    if stage == "AWSPREVIOUS":
        put(secrets, name, {1: A})
    message = refused(lambda: held(name))
    assert f"the secret {name} is no token key file" in message
    assert ("AWSPREVIOUS" in message) == (stage == "AWSPREVIOUS")
    assert "geheim" not in message


def test_bytes_are_no_string(secrets: "SecretsManagerClient", name: str) -> None:
    secrets.put_secret_value(SecretId=name, SecretBinary=b"\x00" * 32)
    assert refused(lambda: held(name)) == (
        f"the secret {name} holds bytes in AWSCURRENT: put the text as its SecretString"
    )


def test_a_secret_that_does_not_exist(secrets: "SecretsManagerClient") -> None:
    assert refused(lambda: held("loginpipe/nothing")) == (
        "the secret loginpipe/nothing does not exist in this account and region, or holds no value: create it with "
        "one, or fix its name or AWS_REGION"
    )


def test_a_secret_without_a_value(secrets: "SecretsManagerClient", wire: Wire, name: str) -> None:
    wire.on("GetSecretValue", answers(refusal("ResourceNotFoundException")))
    assert "or holds no value" in refused(lambda: held(name))


def test_a_secret_that_is_to_be_deleted(secrets: "SecretsManagerClient", name: str) -> None:
    secrets.delete_secret(SecretId=name, RecoveryWindowInDays=7)
    assert refused(lambda: held(name)) == (f"the secret {name} is marked for deletion: restore it, or name another")


@pytest.mark.parametrize(
    ("action", "load", "wanted"),
    [
        ("GetSecretValue", load_token_keys, "secretsmanager:GetSecretValue, and kms:Decrypt on the key "),
        ("PutSecretValue", rotate_token_keys, "secretsmanager:PutSecretValue, and kms:GenerateDataKey on the key "),
    ],
    ids=["read", "rotate"],
)
def test_a_secret_that_these_credentials_may_not_use(
    wire: Wire, name: str, action: str, load: Callable[..., object], wanted: str
) -> None:
    wire.on(action, answers(refusal("AccessDeniedException")))
    message = refused(lambda: load(f"secretsmanager:{name}", production=False))
    assert message.startswith(
        f"the secret {name} may not be used with these credentials (AccessDeniedException): grant {wanted}"
    )


def test_a_secret_whose_own_key_is_gone(wire: Wire, name: str) -> None:
    wire.on("GetSecretValue", answers(refusal("DecryptionFailure")))
    assert refused(lambda: held(name)).startswith(f"the secret {name} cannot be decrypted by Secrets Manager: ")


def test_an_endpoint_that_is_no_secrets_manager(wire: Wire) -> None:
    wire.on("*", answers(PLAIN_WEB_SERVER))
    assert refused(lambda: held("x")) == (
        "the secret x is at an endpoint that does not answer as AWS does: fix AWS_ENDPOINT_URL, or unset it"
    )


# --- salts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "salt"), [("pepper", b"pepper"), ("pfeffer\u00e9\n", "pfeffer\u00e9".encode())])
def test_a_salt_is_the_string_of_a_secret(secrets: "SecretsManagerClient", text: str, salt: bytes) -> None:
    name = f"loginpipe/{uuid4().hex}"
    secrets.create_secret(Name=name, SecretString=text)
    assert load_compat(SALTED, f"secretsmanager:{name}", production=True) == CompatMasking(SALTED, salt)


def test_a_salt_that_does_not_exist_is_refused(secrets: "SecretsManagerClient") -> None:
    message = refused(lambda: load_compat(SALTED, "secretsmanager:loginpipe/nothing", production=False))
    assert message.startswith("the secret loginpipe/nothing does not exist in this account and region")
