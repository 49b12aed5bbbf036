"""Define every setting, with its type. boto3 reads AWS's own variables, which keep their usual meaning.

Settings without a default are ``None`` here, and `Settings.required` demands them where they are first needed. So the
Dagster UI can show the project before it is fully configured, and a run stops before it receives a message.
"""

import logging
import os
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from dotenv import load_dotenv
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from loginpipe.common.aws import is_loopback
from loginpipe.common.errors import SettingError, use_runbook
from loginpipe.common.logins_table import DEFAULT_TABLE, TABLE_PATTERN, TABLE_RULE, use_logins_table

PREFIX = "LOGINPIPE_"

SECRETS_MANAGER = "secretsmanager"
PARAMETER_STORE = "ssm"
VAULT = "vault"
# The form of a reference to a secret, which `loginpipe.common.secrets` looks up.
_REFERENCE = re.compile(
    rf"({SECRETS_MANAGER}:[\w/+=.@:-]+(#[^#\s]+)?|{PARAMETER_STORE}:[\w/.:-]+|{VAULT}:[\w.-]+/[\w/.-]+#[^#\s]+)"
)

MEANINGS = {
    "archive_url": "where the archive is, as in file:archive or s3://bucket/prefix",
    "database_url": "postgresql://user@host/database",
    "seal_key": "the URI of the public seal key, as in file:keys/seal_public.pem, or off",
    "token_keys": "the URI of the token keys, as in file:keys/token_keys.json",
}
"""Setting without a default → the value that it needs."""

# Fields and columns of a login. A copy, because `loginpipe.logins` imports this module; a test keeps both equal. The
# version is not here: its text may be an extra, because the integer in the table has less information.
_OF_A_LOGIN = frozenset({
    "user_id", "device_type", "ip", "device_id", "locale", "masked_ip", "masked_device_id", "create_date",
})  # fmt: skip

_QUEUE_ARN = re.compile(r"arn:aws[a-z-]*:sqs:([A-Za-z0-9-]+):(\d{12}):([A-Za-z0-9_-]{1,80}(?:\.fifo)?)")
# A URL or keyword=value pairs. libpq validates the rest.
_LIBPQ = re.compile(r"postgres(ql)?://|[a-z_]+\s*=")
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}")
# Field → the pattern that it must match as a whole, and the rule in words.
_FORMS = {
    "asset_prefix": (re.compile(r"\w*", re.ASCII), "must be letters, digits and underscores"),
    "alert_sns_topic": (_TOPIC, "must be the ARN of a standard topic, arn:aws:sns:REGION:ACCOUNT:NAME"),
    "table": (TABLE_PATTERN, TABLE_RULE),
}

_RESENT_DAYS = 366
_LEDGER_DAYS = 29

# Settings of earlier versions, and their replacements.
_GONE = {
    "LOGINPIPE_BATCH_SECONDS": (
        "a batch closes LOGINPIPE_LINGER_SECONDS after its first message, and a run ends after LOGINPIPE_RUN_SECONDS: "
        "set these instead"
    ),
}


# Variables that files in deploy/ read. They are not settings of the program.
NO_SETTINGS = frozenset({
    "LOGINPIPE_CODE_SERVER_HOST", "LOGINPIPE_COMPUTE_LOGS_BUCKET", "LOGINPIPE_IMAGE", "LOGINPIPE_RUN_TASK_DEFINITION",
})  # fmt: skip

_log = logging.getLogger(__name__)


class Settings(BaseSettings):
    """The settings in the environment. ``.env.example`` lists every variable with its meaning."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, hide_input_in_errors=True, extra="ignore", frozen=True
    )

    env: Literal["local", "production"] = "local"
    queue: str = "login-queue"
    asset_prefix: str = ""
    consumer: Literal["dagster", "lambda", "both"] = "dagster"
    envelope: Literal["none", "sns", "eventbridge"] = "none"
    database_url: str | None = Field(default=None, repr=False)
    database_auth: Literal["password", "rds-iam"] = "password"
    table: str = DEFAULT_TABLE
    token_keys: str | None = None
    seal_key: str | None = None
    seal_key_fingerprint: str | None = None
    masking: Literal["hmac-sha256", "compat-sha256", "compat-sha256-salted", "compat-sha256-base64", "compat-md5"] = (
        "hmac-sha256"
    )
    compat_salt: str | None = None
    unknown_fields: Literal["seal", "drop"] = "seal"
    extra_fields: str = ""
    # Not shown, because Dagster stores what a resource shows, and a placeholder may be an operator's own address.
    placeholders: str | None = Field(default=None, repr=False)
    batch_messages: int = Field(default=10_000, ge=1, le=120_000)
    linger_seconds: float = Field(default=0.5, ge=0, le=60)
    run_seconds: float = Field(default=600, gt=0, le=43_200)
    visibility_seconds: int = Field(default=120, ge=3, le=43_200)
    sqs_client: Literal["lean", "boto3"] = "lean"
    receivers: int = Field(default=32, ge=1, le=64)
    max_runs: int = Field(default=3, ge=1, le=100)
    max_reject_rate: float = Field(default=0.05, ge=0, le=1)
    brake: Literal["on", "off"] = "on"
    # At most the last bound of the delay buckets, because longer delays are not distinguished.
    max_delay_seconds: int = Field(default=900, ge=1, le=3600)
    # Not shown, because anyone who has the URL can write to the channel.
    alert_webhook_url: str | None = Field(default=None, repr=False)
    alert_sns_topic: str | None = None
    runbook_url: str = "docs/operations.md"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    archive_url: str | None = None
    retention_days: int | None = Field(default=None, ge=1)
    keep_runs_days: int = Field(default=14, ge=1)
    first_day: date | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _without_white_space(cls, value: object) -> object:
        # A secret from a file or a mount usually ends with a line break.
        return value.strip() if isinstance(value, str) else value

    @field_validator("queue")
    @classmethod
    def _names_a_queue(cls, queue: str) -> str:
        queue = queue.rstrip("/")
        if not queue or (queue.startswith("arn:") and not _QUEUE_ARN.fullmatch(queue)):
            raise ValueError("must be the name, the URL or the ARN of a queue (arn:aws:sqs:REGION:ACCOUNT:NAME)")
        return queue

    @field_validator(*_FORMS)
    @classmethod
    def _has_its_form(cls, value: str | None, info: ValidationInfo) -> str | None:
        pattern, rule = _FORMS[str(info.field_name)]
        if value is not None and not pattern.fullmatch(value):
            raise ValueError(rule)
        return value

    @field_validator("database_url")
    @classmethod
    def _names_postgres(cls, url: str | None) -> str | None:
        if url is not None and not is_reference(url) and (problem := database_url_problem(url)):
            raise ValueError(problem)
        return url

    @field_validator("extra_fields")
    @classmethod
    def _names_extras(cls, names: str) -> str:
        for place, name in enumerate(names.split(","), 1):
            if name.strip() in _OF_A_LOGIN:
                raise ValueError(f"name {place} is a column of user_logins: remove it")
        return names

    @field_validator("placeholders")
    @classmethod
    def _lists_values(cls, placeholders: str | None) -> str | None:
        if placeholders is not None and not all(part.strip() for part in placeholders.split(",")):
            raise ValueError("must be values separated by commas, none of them blank")
        return placeholders

    @field_validator("alert_webhook_url")
    @classmethod
    def _names_a_webhook(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None or is_reference(url):
            return url
        if problem := webhook_url_problem(url, production=info.data.get("env") == "production"):
            raise ValueError(problem)
        return url

    @field_validator("first_day", mode="before")
    @classmethod
    def _is_a_day(cls, day: date | str | None) -> date | None:
        if not isinstance(day, str):
            return day
        try:
            first = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).date()
        except ValueError:
            first = date.max
        if first > datetime.now(UTC).date():
            raise ValueError("must be today or an earlier day (UTC), as in 2026-11-29")
        return first

    @property
    def clear_fields(self) -> frozenset[str]:
        """The names in ``LOGINPIPE_EXTRA_FIELDS``."""
        return frozenset(name.strip() for name in self.extra_fields.split(",")) - {""}

    @property
    def resent_days(self) -> int:
        """Maximum age in days, since first sent, of a replayed or redriven message.

        This is a year, or ``retention_days`` if set, because the row of an older message may be dropped already. It is
        at least the 29 days that the ledger covers.
        """
        return _RESENT_DAYS if self.retention_days is None else max(self.retention_days, _LEDGER_DAYS)

    @property
    def names_the_table(self) -> bool:
        """True if LOGINPIPE_TABLE is set, even to its default."""
        return "table" in self.model_fields_set

    @property
    def production(self) -> bool:
        """True if development keys and unverified connections must be refused."""
        return self.env == "production"

    def required(self, name: str) -> str:
        """Return a setting without a default by its field name, one of `MEANINGS`; raise `SettingError` if not set."""
        value: str | None = getattr(self, name)
        if not value:
            raise SettingError(f"{PREFIX}{name.upper()} is not set: set it to {MEANINGS[name]}")
        return value

    @property
    def further_placeholders(self) -> tuple[str, ...]:
        """The values of ``LOGINPIPE_PLACEHOLDERS``."""
        return tuple(part.strip() for part in self.placeholders.split(",")) if self.placeholders else ()

    @property
    def queue_name(self) -> str:
        """The queue's name, even if its URL or ARN is set."""
        return name_of_queue(self.queue)


def name_of_queue(queue: str) -> str:
    """Return the name of a queue from its name, URL or ARN."""
    return re.split("[/:]", queue)[-1]


def region_and_account(queue: str) -> tuple[str, str] | None:
    """Return region and account from a queue's ARN, or None if it is no ARN."""
    arn = _QUEUE_ARN.fullmatch(queue)
    return (arn[1], arn[2]) if arn else None


def in_production() -> bool:
    """Return True if LOGINPIPE_ENV is production, without loading the other settings.

    Every process that connects to a database needs this, even those of Dagster, which start without our settings.
    """
    return _in_force("env") == "production"


def connects_by_token() -> bool:
    """Return True if LOGINPIPE_DATABASE_AUTH is rds-iam, without loading the other settings; see `in_production`."""
    return _in_force("database_auth") == "rds-iam"


def _in_force(name: str) -> str:
    variable = f"{PREFIX}{name}".upper()
    return next((value.strip() for key, value in os.environ.items() if key.upper() == variable), "")


def is_reference(value: str) -> bool:
    """Return True if a secret setting is a reference, not the secret itself."""
    return _REFERENCE.fullmatch(value) is not None


def database_url_problem(url: str) -> str | None:
    """Return what is wrong with a warehouse URL, without quoting it, or None if it is valid."""
    if _LIBPQ.match(url):
        return None
    return "must begin with postgresql://, or be keywords of libpq such as service=logins"


def webhook_url_problem(url: str, *, production: bool) -> str | None:
    """Return what is wrong with a webhook URL, without quoting it, or None if it is valid."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"} or re.search(r"[^!-~]", url):
        return "must be a URL, https://…"
    if production and parts.scheme != "https" and not is_loopback(host):
        return "must begin with https:// in production"
    return None


def unknown_settings(names: Iterable[str]) -> list[str]:
    """Return a warning for each variable that begins with LOGINPIPE_ and is not a setting."""
    known = [field.upper() for field in Settings.model_fields]
    others = {name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)} - {*known}
    found = []
    for name in sorted(others - {other.removeprefix(PREFIX) for other in (*NO_SETTINGS, *_GONE)}):
        nearest = get_close_matches(name, known, n=1, cutoff=0.7)
        instead = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "unset it"
        found.append(f"{PREFIX}{name} is not a setting and is ignored: {instead}")
    return found


@cache
def _warn_once(message: str) -> None:
    # Settings are read at every tick of a sensor.
    _log.warning("%s", message)


def load_settings() -> Settings:
    """Read the settings from the environment and from ``.env`` in the current folder. The environment overrides it.

    ``.env`` is loaded into the environment, as the ``dagster`` commands do, because boto3 reads its variables there.

    Raises:
        SettingError: a variable is invalid, or ``.env`` unreadable. The message names it and the rule, never a value.
    """
    try:
        load_dotenv(Path.cwd() / ".env")
    except (OSError, ValueError):
        # A decoding error quotes the bytes.
        raise SettingError(f"{Path.cwd() / '.env'} cannot be read as UTF-8 text without NUL: fix the file") from None
    for name, instead in _GONE.items():
        if os.environ.get(name):
            raise SettingError(f"{name} was removed: {instead}")
    for unknown in unknown_settings(os.environ):
        _warn_once(unknown)
    wrong = ""
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        )
    if wrong:
        # Raised outside the except block: pydantic's error holds the values, and Dagster stores an error's context.
        raise SettingError(f"invalid setting: {wrong}")
    use_runbook(settings.runbook_url)
    use_logins_table(settings.table)
    return settings
