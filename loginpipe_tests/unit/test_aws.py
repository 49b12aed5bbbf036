"""Production requires https of an AWS endpoint, unless it is on this machine."""

import boto3
import pytest

from loginpipe.common.aws import EXPIRED, Wording, endpoint_problem
from loginpipe.common.errors import KeyFileError, QueueError
from loginpipe.common.settings import load_settings
from loginpipe.masking.aws_keys import kms_client, secrets_manager_client
from loginpipe.sqs.client import open_queue

SERVICES = {"sqs": "SQS", "kms": "KMS", "secretsmanager": "SECRETS_MANAGER"}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


def problem(service: str, endpoint: str | None = None) -> str | None:
    return endpoint_problem(boto3.session.Session().client(service, region_name="eu-west-1", endpoint_url=endpoint))  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "endpoint",
    [None, "https://vpce-1.example.com", "http://127.0.0.1:4566", "http://127.8.0.1", "http://localhost:4566",
     "http://localhost.localstack.localhost:1", "http://[::1]:4566"],
    ids=str,
)  # fmt: skip
def test_an_endpoint_with_https_or_on_this_machine_is_good_enough(service: str, endpoint: str | None) -> None:
    assert problem(service, endpoint) is None


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "endpoint",
    ["http://localstack:4566", "http://10.0.0.5", "http://localhost.example.com", "http://[fe80::1]:80", "http://0.0.0.0:1"],
)  # fmt: skip
def test_any_other_is_named_with_how_to_set_it(service: str, endpoint: str) -> None:
    said = problem(service, endpoint)
    assert said is not None
    assert "production requires https for AWS" in said
    assert f"AWS_ENDPOINT_URL_{SERVICES[service]}" in said
    assert "https://" in said


def test_credentials_in_the_url_are_not_shown() -> None:
    said = problem("sqs", "http://user:geheim@queues.example.com:4566")
    assert said is not None
    assert "geheim" not in said
    assert "queues.example.com" in said


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"])
def test_a_queue_without_https_is_refused_in_production_before_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://queues.invalid:4566")
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    with pytest.raises(QueueError) as caught:
        open_queue("logins", load_settings(), connections=1)
    assert str(caught.value).startswith(
        "queue 'logins': production requires https for AWS, and the endpoint at queues.invalid does not use it: "
    )


@pytest.mark.parametrize(
    ("make", "variable", "name"),
    [
        (kms_client, "AWS_ENDPOINT_URL_KMS", "KMS"),
        (secrets_manager_client, "AWS_ENDPOINT_URL_SECRETS_MANAGER", "Secrets Manager"),
    ],
    ids=["KMS", "Secrets Manager"],
)
def test_keys_without_https_are_refused_in_production_before_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, make: type, variable: str, name: str
) -> None:
    monkeypatch.setenv(variable, "http://keys.invalid")
    assert make(production=False)
    with pytest.raises(KeyFileError) as caught:
        make(production=True)
    assert str(caught.value).startswith(f"{name}: production requires https for AWS, and the endpoint at keys.invalid ")
    assert variable in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        ("RequestTimeTooSkewed", "", "set this machine's clock with NTP"),
        ("RequestExpired", "", "set this machine's clock with NTP"),
        ("InvalidSignatureException", "Signature expired: 20261120T1 is now earlier than", "the time of the request"),
        ("SignatureDoesNotMatch", "Signature not yet current: 20261120T1 is still later", "the time of the request"),
        ("SignatureDoesNotMatch", "The request signature we calculated", "AWS refuses the signature"),
        ("InvalidSignatureException", "Credential should be scoped to a valid region.", "set AWS_REGION to the"),
        ("InvalidClientTokenId", "", "AWS refuses the credentials (InvalidClientTokenId): renew them"),
        ("SlowDown", "", "is throttled by AWS (SlowDown): try again later"),
        ("418", "", "does not answer as AWS does: fix AWS_ENDPOINT_URL, or unset it (it answered 418)"),
        ("", "", "cannot be used: AWS answered with an error"),
        ("Own", "", "is ours"),
    ],
)
def test_each_code_is_named_as_what_it_is_and_the_message_is_never_quoted(code: str, message: str, said: str) -> None:
    wording = Wording(KeyFileError, "the key", own={"Own": "is ours"})
    error = wording.of_code(code, message)
    assert isinstance(error, KeyFileError)
    assert str(error).startswith("the key ")
    assert said in str(error)
    assert "20261120T1" not in str(error)


def test_what_deletes_wait_for_is_expired_credentials_and_no_wrong_clock_or_key() -> None:
    assert "ExpiredToken" in EXPIRED
    assert not EXPIRED & {
        "RequestExpired",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "InvalidClientTokenId",
    }
