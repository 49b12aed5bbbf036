"""Secret settings as references: to Secrets Manager and Parameter Store, on the embedded endpoint, and to Vault."""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest
from psycopg2.extensions import parse_dsn

from loginpipe.common import secrets
from loginpipe.common.errors import AlertError, SettingError
from loginpipe.common.secrets import alert_webhook_url, database_url
from loginpipe.common.settings import load_settings
from loginpipe.monitoring import doctor
from loginpipe.monitoring.alert_delivery import channels
from loginpipe_tests.commands import command_line
from loginpipe_tests.wire import PLAIN_WEB_SERVER, Wire, answers, refusal

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

PASSWORD = "geheim-4711"
URL = f"postgresql://loginpipe_pipeline:{PASSWORD}@db.example.com/logins?sslmode=verify-full"
WEBHOOK = f"https://hooks.example.com/services/{PASSWORD}"


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_kept", {})


@pytest.fixture
def manager(aws: None) -> "SecretsManagerClient":
    return boto3.session.Session().client("secretsmanager")


@pytest.fixture
def held(manager: "SecretsManagerClient", monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that stores a text in AWS, names it in a setting, and returns the reference."""

    def hold(text: str, where: str = "secretsmanager", *, setting: str = "DATABASE_URL", key: str = "") -> str:
        name = f"/loginpipe/{uuid4().hex}"
        if where == "ssm":
            boto3.session.Session().client("ssm").put_parameter(Name=name, Value=text, Type="SecureString")
        else:
            manager.create_secret(Name=name, SecretString=text)
        reference = f"{where}:{name}{key}"
        monkeypatch.setenv(f"LOGINPIPE_{setting}", reference)
        return reference

    return hold


@pytest.fixture
def wire(manager: "SecretsManagerClient", monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(secrets, "_ATTEMPTS", 1)
    with Wire(manager.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        yield wire


def refused(look_up: Callable[[Any], object]) -> str:
    """Return the one line of a failed look-up; check that the secret is not in the traceback."""
    with pytest.raises(SettingError) as caught:
        look_up(load_settings())
    shown = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("where", ["secretsmanager", "ssm"])
def test_a_reference_stands_for_what_is_kept_at_aws(held: Callable[..., str], where: str) -> None:
    held(f"{URL}\n", where)
    assert database_url(load_settings()) == URL


def test_a_key_picks_one_value_of_a_json_object(held: Callable[..., str]) -> None:
    held(json.dumps({"url": URL, "port": 5432}), key="#url")
    assert database_url(load_settings()) == URL


def test_a_login_as_rds_keeps_it_stands_for_the_database_also_where_the_environment_says_where_that_is(
    held: Callable[..., str], pipeline_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parse_dsn(pipeline_url)
    password = rf"{PASSWORD}' \\ x"
    monkeypatch.setenv("PGHOST", parts["host"])
    held(json.dumps({"username": parts["user"], "password": password, "dbname": parts["dbname"], "engine": "postgres"}))
    assert parse_dsn(database_url(load_settings())) == {
        "user": parts["user"],
        "password": password,
        "dbname": parts["dbname"],
    }
    assert "migrated to" in doctor.database(load_settings())


def test_a_secret_may_be_named_by_its_arn(
    held: Callable[..., str], manager: "SecretsManagerClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    name = held(URL).removeprefix("secretsmanager:")
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", f"secretsmanager:{manager.describe_secret(SecretId=name)['ARN']}")
    assert database_url(load_settings()) == URL


def test_a_setting_that_is_no_reference_is_taken_as_it_is_and_aws_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", URL)
    monkeypatch.setenv("LOGINPIPE_ALERT_WEBHOOK_URL", WEBHOOK)
    assert (database_url(load_settings()), alert_webhook_url(load_settings())) == (URL, WEBHOOK)


def test_a_secret_is_read_once_and_again_when_five_minutes_are_over(
    held: Callable[..., str], manager: "SecretsManagerClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = held("not a URL yet")
    now = 1000.0
    monkeypatch.setattr(secrets.time, "monotonic", lambda: now)
    refused(database_url)
    manager.put_secret_value(SecretId=reference.partition(":")[2], SecretString=URL)
    assert database_url(load_settings()) == URL, "what is refused is not kept"
    manager.put_secret_value(SecretId=reference.partition(":")[2], SecretString=f"{URL}&connect_timeout=3")
    assert database_url(load_settings()) == URL
    now += 301
    assert database_url(load_settings()) == f"{URL}&connect_timeout=3"


def test_a_command_uses_the_database_that_the_reference_leads_to_and_shows_no_secret(
    held: Callable[..., str],
    pipeline_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    held(pipeline_url.replace("loginpipe_pipeline:@", f"loginpipe_pipeline:{PASSWORD}@"))
    done = command_line(monkeypatch, capsys)("rejects", "list", "--json")
    assert done.json == []
    assert PASSWORD not in done.out + done.err + caplog.text + repr(load_settings())
    assert "migrated to" in doctor.database(load_settings())


def test_an_alerts_address_that_cannot_be_looked_up_is_said_and_the_topic_gets_its_alerts(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_ALERT_WEBHOOK_URL", "secretsmanager:absent")
    monkeypatch.setenv("LOGINPIPE_ALERT_SNS_TOPIC", "arn:aws:sns:us-east-1:000000000000:alerts")
    webhook, topic = channels(load_settings())
    assert (webhook.name, topic.name) == ("webhook", "sns")
    with pytest.raises(AlertError, match="secretsmanager:absent does not exist"):
        webhook.deliver("subject", "text")
    assert "secretsmanager:absent does not exist" in refused(doctor.alerts)


def test_an_alerts_address_is_looked_up(held: Callable[..., str]) -> None:
    held(WEBHOOK, setting="ALERT_WEBHOOK_URL")
    assert [channel.place for channel in channels(load_settings())] == ["webhook at hooks.example.com"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (PASSWORD, "", "must begin with postgresql://"),
        ("   ", "", "holds no text"),
        (URL, "#url", "holds no text under url"),
        (json.dumps([URL]), "#url", "holds no text under url"),
        (json.dumps({"url": {"password": PASSWORD}}), "#url", "holds no text under url"),
    ],
    ids=["no URL", "blank", "no JSON", "no object", "no text"],
)
def test_a_secret_that_holds_something_else_is_named_and_not_shown(
    held: Callable[..., str], text: str, key: str, said: str
) -> None:
    reference = held(text, key=key)
    refusal = refused(database_url)
    assert refusal.startswith("LOGINPIPE_DATABASE_URL: ")
    assert reference in refusal
    assert said in refusal


def test_a_secret_of_bytes_is_named(manager: "SecretsManagerClient", monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"/loginpipe/{uuid4().hex}"
    manager.create_secret(Name=name, SecretBinary=URL.encode())
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", f"secretsmanager:{name}")
    assert "holds no text: fix the reference or the secret" in refused(database_url)


def test_an_address_without_https_is_refused_in_production_also_where_it_was_looked_up(
    held: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    held(WEBHOOK.replace("https", "http"), setting="ALERT_WEBHOOK_URL")
    assert "must begin with https:// in production" in refused(alert_webhook_url)


def test_production_refuses_an_endpoint_without_https(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", "ssm:/loginpipe/url")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://aws.example.com")
    assert "production requires https for AWS" in refused(database_url)


@pytest.mark.parametrize("reference", ["secretsmanager:absent", "ssm:/absent"])
def test_what_is_not_there_is_named(aws: None, monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", reference)
    assert f"{reference} does not exist in this account and region" in refused(database_url)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusal("AccessDeniedException"), "may not be used with these credentials (AccessDeniedException): grant "),
        (refusal("ExpiredTokenException"), "AWS refuses the credentials (ExpiredTokenException): renew them"),
        (
            refusal("InternalServiceError", 500),
            "is unavailable for now (its endpoint answered InternalServiceError): try again later",
        ),
        (PLAIN_WEB_SERVER, "at an endpoint that does not answer as AWS does"),
    ],
    ids=["denied", "expired", "problem", "web server"],
)
@pytest.mark.parametrize("reference", ["secretsmanager:one", "ssm:/one"])
def test_a_refusal_of_aws_is_one_line_with_the_mend(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, reference: str, answer: Any, said: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", reference)
    wire.on("*", answers(answer))
    assert said in refused(database_url)


def test_an_endpoint_out_of_reach_and_a_missing_region_are_told_apart(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_ATTEMPTS", 1)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", "secretsmanager:one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "the endpoint is unreachable" in refused(database_url)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert "no AWS region is set: set AWS_REGION" in refused(database_url)


@pytest.mark.parametrize("value", ["secretsmanager:", "ssm:", "secretsmanager:a b", "secretsmanager:a#", "vault:one"])
def test_what_is_neither_a_url_nor_a_reference_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", value)
    assert "LOGINPIPE_DATABASE_URL: must begin with postgresql://" in refused(database_url)


# --- HashiCorp Vault ---


class VaultApi(BaseHTTPRequestHandler):
    """A stand-in for Vault's HTTP API: one secret in KV version 2, a deleted one, and one token that may read them."""

    def do_GET(self) -> None:
        self.server.namespace = self.headers.get("X-Vault-Namespace")  # type: ignore[attr-defined]
        if self.headers.get("X-Vault-Token") != "good":
            return self._answer(403, {"errors": ["permission denied"]})
        if self.server.sealed:  # type: ignore[attr-defined]
            return self._answer(503, {"errors": ["Vault is sealed"]})
        path = self.path.partition("?")[0]
        if path == "/v1/apps/data/loginpipe/database":
            return self._answer(200, {"data": {"data": {"url": URL, "port": 5432}, "metadata": {"version": 3}}})
        if path == "/v1/apps/data/loginpipe/gone":
            return self._answer(404, {"data": {"data": None, "metadata": {"deletion_time": "2026-11-21T12:00:00Z"}}})
        return self._answer(404, {"errors": []})

    def _answer(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), VaultApi)
    server.daemon_threads = True
    server.sealed = False  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("VAULT_TOKEN", "good")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_secret_of_vault_is_the_setting(vault: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", "vault:apps/loginpipe/database#url")
    monkeypatch.setenv("VAULT_NAMESPACE", "logins")
    settings = load_settings()
    assert PASSWORD not in repr(settings)
    assert database_url(settings) == URL
    assert vault.namespace == "logins"  # type: ignore[attr-defined]
    # Cached for some time, like those of AWS.
    vault.sealed = True  # type: ignore[attr-defined]
    assert database_url(settings) == URL


@pytest.mark.parametrize(
    ("reference", "environment", "said"),
    [
        ("apps/loginpipe/absent#url", {}, "does not exist: create it, in version 2 of KV"),
        ("apps/loginpipe/gone#url", {}, "does not exist: create it, in version 2 of KV"),
        ("apps/loginpipe/database#password", {}, "holds no text under password"),
        ("apps/loginpipe/database#port", {}, "holds no text under port"),
        ("apps/loginpipe/database#url", {"VAULT_TOKEN": "bad"}, "may not be read with VAULT_TOKEN: renew it"),
        ("apps/loginpipe/database#url", {"VAULT_ADDR": ""}, "set VAULT_ADDR to the URL of Vault"),
        ("apps/loginpipe/database#url", {"VAULT_ADDR": "http://127.0.0.1:1"}, "Vault did not answer"),
        (
            "apps/loginpipe/database#url",
            {"VAULT_ADDR": "http://vault.example.com", "LOGINPIPE_ENV": "production"},
            "production requires https for Vault",
        ),
    ],
)
@pytest.mark.usefixtures("vault")
def test_what_vault_does_not_give_is_named_in_one_line(
    reference: str, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", f"vault:{reference}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = refused(database_url)
    assert found.startswith(f"LOGINPIPE_DATABASE_URL: vault:{reference} ") or f"vault:{reference}: " in found
    assert said in found
    assert PASSWORD not in found


def test_without_its_package_vault_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hvac", None)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", "vault:apps/loginpipe/database#url")
    assert "needs hvac: run `pip install 'loginpipe[vault]'`" in refused(database_url)


def test_a_sealed_vault_is_named(vault: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.sealed = True  # type: ignore[attr-defined]
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", "vault:apps/loginpipe/database#url")
    assert "Vault did not answer: check that it is unsealed" in refused(database_url)
