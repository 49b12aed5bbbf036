"""The settings: their defaults, where they are read, and that a wrong one is named but not shown."""

import os
import pickle
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from loginpipe.common.errors import SettingError
from loginpipe.common.logins_table import COLUMN_NAMES, logins_schema, logins_table
from loginpipe.common.settings import PREFIX, Settings, load_settings
from loginpipe.logins.parsing import LOGIN_FIELDS
from loginpipe.postgres.partitions import _LEDGER_KEPT
from loginpipe.postgres.statements import statement
from loginpipe_tests.canary import everything_an_error_shows

PASSWORD = "geheim-4711"


@pytest.fixture(autouse=True)
def _environment_as_before() -> Iterator[None]:
    """Restore the environment, because ``.env`` is loaded into it and must not affect the next test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name.upper(), value)


def refusal() -> SettingError:
    with pytest.raises(SettingError) as caught:
        load_settings()
    return caught.value


@pytest.mark.parametrize(("retention", "days"), [(None, 366), ("400", 400), ("30", 30), ("7", 29)])
def test_what_is_sent_again_may_be_as_old_as_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, retention: str | None, days: int
) -> None:
    if retention:
        monkeypatch.setenv("LOGINPIPE_RETENTION_DAYS", retention)
    assert load_settings().resent_days == days
    assert timedelta(days=29) == _LEDGER_KEPT


def test_without_any_variable_the_settings_are_the_documented_defaults() -> None:
    assert load_settings().model_dump() == {
        "env": "local",
        "queue": "login-queue",
        "asset_prefix": "",
        "consumer": "dagster",
        "envelope": "none",
        "database_url": None,
        "database_auth": "password",
        "table": "public.user_logins",
        "token_keys": None,
        "seal_key": None,
        "seal_key_fingerprint": None,
        "masking": "hmac-sha256",
        "compat_salt": None,
        "unknown_fields": "seal",
        "extra_fields": "",
        "placeholders": None,
        "batch_messages": 10_000,
        "linger_seconds": 0.5,
        "run_seconds": 600,
        "visibility_seconds": 120,
        "receivers": 32,
        "sqs_client": "lean",
        "max_runs": 3,
        "max_reject_rate": 0.05,
        "brake": "on",
        "max_delay_seconds": 900,
        "alert_webhook_url": None,
        "alert_sns_topic": None,
        "runbook_url": "docs/operations.md",
        "archive_url": None,
        "retention_days": None,
        "keep_runs_days": 14,
        "first_day": None,
        "log_level": "INFO",
    }


def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(
        monkeypatch,
        env="production",
        queue="https://sqs.eu-west-1.amazonaws.com/123/logins",
        asset_prefix="partners_2",
        consumer="both",
        envelope="eventbridge",
        database_url="postgresql://user:pw@host/logins?sslmode=verify-full",
        database_auth="rds-iam",
        table="analytics.user_logins",
        token_keys="file:/keys/token_keys.json",
        seal_key="off",
        seal_key_fingerprint="ab" * 32,
        masking="compat-sha256-salted",
        compat_salt="file:/keys/salt",
        unknown_fields="drop",
        extra_fields="country, session_id",
        placeholders="test-device,192.0.2.1",
        batch_messages="1",
        linger_seconds="0.25",
        run_seconds="43200",
        visibility_seconds="43200",
        receivers="64",
        sqs_client="boto3",
        max_runs="100",
        max_reject_rate="1",
        brake="off",
        max_delay_seconds="3600",
        alert_webhook_url="https://hooks.example.com/services/1",
        alert_sns_topic="arn:aws:sns:eu-west-1:123456789012:on-call",
        runbook_url="https://docs.example.com/runbook",
        archive_url="s3://bucket/prefix",
        retention_days="400",
        keep_runs_days="7",
        first_day="2026-02-28",
        log_level="DEBUG",
    )
    assert load_settings().model_dump() == {
        "env": "production",
        "queue": "https://sqs.eu-west-1.amazonaws.com/123/logins",
        "asset_prefix": "partners_2",
        "consumer": "both",
        "envelope": "eventbridge",
        "database_url": "postgresql://user:pw@host/logins?sslmode=verify-full",
        "database_auth": "rds-iam",
        "table": "analytics.user_logins",
        "token_keys": "file:/keys/token_keys.json",
        "seal_key": "off",
        "seal_key_fingerprint": "ab" * 32,
        "masking": "compat-sha256-salted",
        "compat_salt": "file:/keys/salt",
        "unknown_fields": "drop",
        "extra_fields": "country, session_id",
        "placeholders": "test-device,192.0.2.1",
        "batch_messages": 1,
        "linger_seconds": 0.25,
        "run_seconds": 43_200,
        "visibility_seconds": 43_200,
        "receivers": 64,
        "sqs_client": "boto3",
        "max_runs": 100,
        "max_reject_rate": 1,
        "brake": "off",
        "max_delay_seconds": 3600,
        "alert_webhook_url": "https://hooks.example.com/services/1",
        "alert_sns_topic": "arn:aws:sns:eu-west-1:123456789012:on-call",
        "runbook_url": "https://docs.example.com/runbook",
        "archive_url": "s3://bucket/prefix",
        "retention_days": 400,
        "keep_runs_days": 7,
        "first_day": date(2026, 2, 28),
        "log_level": "DEBUG",
    }


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_means_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = load_settings()
    set_variables(monkeypatch, **{name: ""})
    assert load_settings() == default


@pytest.mark.parametrize(("env", "production"), [("local", False), ("production", True)])
def test_the_environment_says_whether_this_is_production(
    env: str, production: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, env=env)
    assert load_settings().production is production


def test_extra_fields_are_names_between_commas_and_none_of_a_login_but_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_variables(monkeypatch, extra_fields=" country,session_id , ,app_version,")
    assert load_settings().clear_fields == {"country", "session_id", "app_version"}
    for name in {*LOGIN_FIELDS, *COLUMN_NAMES} - {"app_version"}:
        set_variables(monkeypatch, extra_fields=f"country, {name}")
        assert str(refusal()) == (
            "invalid setting: LOGINPIPE_EXTRA_FIELDS: name 2 is a column of user_logins: remove it"
        )


@pytest.mark.parametrize(
    ("queue", "name"),
    [
        ("login-queue", "login-queue"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/logins", "logins"),
        ("http://localhost:4566/000000000000/logins.fifo", "logins.fifo"),
        ("arn:aws:sqs:eu-west-1:123456789012:logins", "logins"),
        ("arn:aws-cn:sqs:cn-north-1:123456789012:logins.fifo", "logins.fifo"),
    ],
)
def test_the_name_of_the_queue_is_known_also_where_its_url_or_arn_is_set(
    queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, queue=queue)
    assert load_settings().queue_name == name


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user@one,two/name",
        "postgres:///name",
        "postgresql://",
        "service=logins",
        "host = db.example.com dbname=logins",
    ],
)
def test_every_form_of_a_database_url_that_libpq_reads_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, database_url=url)
    assert load_settings().database_url == url


def test_white_space_around_a_value_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted or pasted secret ends with a line break."""
    given = {
        "env": "production",
        "queue": "logins",
        "database_url": f"postgresql://user:{PASSWORD}@host/name",
        "token_keys": "secretsmanager:loginpipe/token-keys",
        "seal_key": "off",
        "seal_key_fingerprint": "ab" * 32,
        "masking": "compat-md5",
        "alert_webhook_url": "https://hooks.example.com/services/1",
        "alert_sns_topic": "arn:aws:sns:eu-west-1:123456789012:on-call",
        "archive_url": "s3://bucket/prefix",
    }
    set_variables(monkeypatch, receivers=" 4\n", **{name: f" {value}\r\n" for name, value in given.items()})
    settings = load_settings()
    assert {name: getattr(settings, name) for name in given} == given
    assert settings.receivers == 4


def test_the_table_is_chosen_for_the_whole_process_and_whether_it_was_named_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not load_settings().names_the_table
    assert logins_table() == "public.user_logins"
    set_variables(monkeypatch, table="analytics.user_logins")
    assert load_settings().names_the_table
    assert (logins_table(), logins_schema()) == ("analytics.user_logins", "analytics")
    assert "INSERT INTO analytics.user_logins (" in statement("insert_new_logins")


# --- wrong values -----------------------------------------------------------------------------------------------------

WRONG = [
    ("env", "geheim"),
    ("env", "Production"),
    ("env", "prod"),
    ("database_url", f"mysql://user:{PASSWORD}@host/name"),
    ("database_url", f"postgresql+psycopg2://user:{PASSWORD}@host/name"),
    ("database_url", f"POSTGRESQL://user:{PASSWORD}@host/name"),
    ("database_auth", "rds_iam"),
    ("database_auth", "geheim"),
    ("queue", "arn:aws:sqs:eu-west-1:123456789012:"),
    ("queue", "arn:aws:sqs:eu-west-1:1234:logins"),
    ("queue", "arn:aws:sns:eu-west-1:123456789012:logins"),
    ("database_url", PASSWORD),
    ("asset_prefix", "partners/logins"),
    ("asset_prefix", "für Partner"),
    ("table", "other"),
    ("table", "analytics.logins"),
    ("table", "Analytics.user_logins"),
    ("table", '"my schema".user_logins'),
    ("table", "a.b.user_logins"),
    ("table", "public.user_logins; SELECT 1"),
    ("table", "public.\nuser_logins"),
    ("table", "pg_temp.user_logins"),
    ("table", "information_schema.user_logins"),
    ("table", "loginpipe.user_logins"),
    ("table", "vault.user_logins"),
    ("table", "a" * 64 + ".user_logins"),
    ("masking", "geheim"),
    ("masking", "plain"),
    ("masking", "HMAC-SHA256"),
    ("unknown_fields", "keep"),
    ("unknown_fields", "SEAL"),
    ("extra_fields", "country, user_id"),
    ("extra_fields", "masked_ip"),
    ("batch_messages", "0"),
    ("batch_messages", "-1"),
    ("batch_messages", "120001"),
    ("batch_messages", "1e3"),
    ("batch_messages", "10_000.5"),
    ("batch_messages", "geheim"),
    ("batch_messages", "9" * 5000),
    ("placeholders", "geheim,,x"),
    ("placeholders", " "),
    ("placeholders", "geheim,"),
    ("keep_runs_days", "0"),
    ("first_day", "1764374400"),
    ("first_day", "2026-02-30"),
    ("first_day", "2026-02-28T00:00"),
    ("first_day", "2999-01-01"),
    ("linger_seconds", "-0.1"),
    ("linger_seconds", "60.1"),
    ("linger_seconds", "nan"),
    ("linger_seconds", "inf"),
    ("linger_seconds", "20s"),
    ("run_seconds", "0"),
    ("run_seconds", "-1"),
    ("run_seconds", "43200.1"),
    ("run_seconds", "nan"),
    ("run_seconds", "inf"),
    ("run_seconds", "10m"),
    ("visibility_seconds", "2"),
    ("visibility_seconds", "43201"),
    ("visibility_seconds", "2.5"),
    ("receivers", "0"),
    ("receivers", "65"),
    ("receivers", "true"),
    ("sqs_client", "aioboto3"),
    ("max_runs", "0"),
    ("max_runs", "101"),
    ("max_reject_rate", "-0.01"),
    ("max_reject_rate", "1.01"),
    ("max_reject_rate", "nan"),
    ("max_reject_rate", "5%"),
    ("brake", "sometimes"),
    ("brake", "1"),
    ("envelope", "SNS"),
    ("envelope", "kinesis"),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda text: text[:30])
def test_a_wrong_value_is_refused_in_one_line_that_names_the_variable_and_not_the_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, **{name: value})
    message = str(refusal())
    assert message.startswith("invalid setting: ")
    assert "\n" not in message
    assert [field for field in Settings.model_fields if f"{PREFIX}{field.upper()}:" in message] == [name]
    if len(value) > 5:
        assert value not in message


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{PASSWORD}@host/name",
        f"postgresql+psycopg2://user:{PASSWORD}@host/name",
        f"postgres:/user:{PASSWORD}@host/name",
        f'"postgresql://user:{PASSWORD}@host/name"',
        PASSWORD,
    ],
)
@pytest.mark.parametrize("among", [{}, {"receivers": "0"}], ids=["alone", "with another wrong one"])
def test_a_wrong_database_url_never_shows_its_password(
    url: str, among: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, database_url=url, **among)
    error = refusal()
    assert "LOGINPIPE_DATABASE_URL: must begin with postgresql://" in str(error)
    assert PASSWORD not in everything_an_error_shows(error)
    assert error.__cause__ is None
    assert error.__context__ is None, "pydantic's error holds the input"
    assert PASSWORD.encode() not in pickle.dumps(error)


def test_several_wrong_settings_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, env="x", receivers="0", max_runs="many")
    message = str(refusal())
    assert all(f"LOGINPIPE_{name}: " in message for name in ("ENV", "RECEIVERS", "MAX_RUNS"))
    assert "\n" not in message


@pytest.mark.parametrize("value", ["20", "x"])
def test_a_setting_of_an_earlier_version_is_named_with_what_replaces_it(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, batch_seconds=value)
    assert str(refusal()) == (
        "LOGINPIPE_BATCH_SECONDS was removed: a batch closes LOGINPIPE_LINGER_SECONDS after its first message, and "
        "a run "
        "ends after LOGINPIPE_RUN_SECONDS: set these instead"
    )


def test_a_setting_of_an_earlier_version_is_named_in_the_file_too_and_empty_it_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("LOGINPIPE_BATCH_SECONDS=20\n")
    assert "LOGINPIPE_BATCH_SECONDS was removed" in str(refusal())
    set_variables(monkeypatch, batch_seconds="")
    assert load_settings() == Settings()


def test_a_right_database_url_is_not_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, database_url=f"postgresql://user:{PASSWORD}@host/name")
    settings = load_settings()
    assert PASSWORD not in repr(settings) + str(settings)


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().queue = "another"


# --- .env -------------------------------------------------------------------------------------------------------------


def test_a_file_in_the_current_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('# a comment\n\nLOGINPIPE_QUEUE=from-file\nexport LOGINPIPE_RECEIVERS="3"\n')
    settings = load_settings()
    assert (settings.queue, settings.receivers) == ("from-file", 3)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("LOGINPIPE_QUEUE=from-file\nLOGINPIPE_RECEIVERS=3\n")
    set_variables(monkeypatch, queue="from-environment")
    settings = load_settings()
    assert (settings.queue, settings.receivers) == ("from-environment", 3)


def test_a_file_in_a_folder_above_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("LOGINPIPE_QUEUE=from-file\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load_settings().queue == "login-queue"


def test_what_the_file_says_of_aws_reaches_the_environment_where_boto3_reads_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AWS_ENDPOINT_URL=http://127.0.0.1:4566\n")
    load_settings()
    assert os.environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"


def test_variables_of_others_in_the_file_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DAGSTER_POSTGRES_URL=x\nLOGINPIPE_OF_ANOTHER_VERSION=1\nnot a variable\n")
    assert load_settings().queue == "login-queue"


def test_a_wrong_value_in_the_file_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"LOGINPIPE_DATABASE_URL=mysql://user:{PASSWORD}@host/name\n")
    error = refusal()
    assert "LOGINPIPE_DATABASE_URL" in str(error)
    assert PASSWORD not in everything_an_error_shows(error)


@pytest.mark.parametrize(
    "content",
    [
        f"LOGINPIPE_DATABASE_URL=postgresql://us\u00e9r:{PASSWORD}@host/name\n".encode("latin-1"),
        f"LOGINPIPE_QUEUE=x\x00y\nLOGINPIPE_DATABASE_URL=postgresql://user:{PASSWORD}@host/name\n".encode(),
    ],
    ids=["not UTF-8", "with a NUL"],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)
    error = refusal()
    assert ".env" in str(error)
    assert "\n" not in str(error)
    assert PASSWORD not in everything_an_error_shows(error)
    assert error.__suppress_context__ or error.__context__ is None


# --- looked up later --------------------------------------------------------------------------------------------------


def test_a_setting_without_a_default_is_asked_for_by_name_with_its_meaning() -> None:
    with pytest.raises(SettingError) as caught:
        Settings(database_url=None).required("database_url")
    assert str(caught.value) == "LOGINPIPE_DATABASE_URL is not set: set it to postgresql://user@host/database"


def test_a_setting_that_is_set_is_given_back() -> None:
    assert Settings(token_keys="file:x").required("token_keys") == "file:x"
