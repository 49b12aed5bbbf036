"""Settings that are secret, and may be references to AWS Secrets Manager or Parameter Store in place of the value.

    secretsmanager:NAME         a secret's string; its name or ARN
    secretsmanager:NAME#KEY     one value of a secret that is a JSON object
    ssm:/NAME                   a parameter, decrypted

For machines that nobody injects secrets into: ECS and Kubernetes put them into the environment themselves.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from loginpipe.common.aws import CREDENTIALS, LOCAL_FAULTS, OUT_OF_REACH, UNAVAILABLE, aws_session, endpoint_fault
from loginpipe.common.errors import SettingError
from loginpipe.common.settings import (
    PREFIX,
    SECRETS_MANAGER,
    Settings,
    database_url_fault,
    is_reference,
    required,
    webhook_url_fault,
)

# A sensor asks every few seconds; a rotated password is taken up within this time.
_KEPT_SECONDS = 300
# Longest wait for a connection, and for an answer: a tick of a sensor has a minute for everything.
_SECONDS = 5
_ATTEMPTS = 3

_ABSENT = frozenset({"ResourceNotFoundException", "ParameterNotFound"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})

# Reference → when it was read, and what it stood for.
_kept: dict[str, tuple[float, str]] = {}


def database_url(settings: Settings) -> str:
    """Return the URL of the warehouse, looked up where the setting is a reference.

    Raises:
        SettingError: it is not set, cannot be looked up, or what it stands for is no such URL. Never shows the value.
    """
    value = required("database_url", settings.database_url, "postgresql://user@host/database")
    return _looked_up("database_url", value, settings, fault=database_url_fault)


def alert_webhook_url(settings: Settings) -> str | None:
    """Return the address that alerts go to, looked up where the setting is a reference; None where there is none.

    Raises:
        SettingError: as `database_url`.
    """
    value = settings.alert_webhook_url
    if value is None:
        return None
    return _looked_up(
        "alert_webhook_url", value, settings, fault=lambda url: webhook_url_fault(url, production=settings.production)
    )


def _looked_up(name: str, value: str, settings: Settings, *, fault: Callable[[str], str | None]) -> str:
    if not is_reference(value):
        return value
    setting = PREFIX + name.upper()
    read_at, found = _kept.get(value, (0.0, ""))
    if not found or time.monotonic() - read_at > _KEPT_SECONDS:
        found = _read(setting, value, production=settings.production)
        _kept[value] = (time.monotonic(), found)
    if said := fault(found):
        del _kept[value]
        raise SettingError(f"{setting}: what {value} holds {said}")
    return found


def _read(setting: str, reference: str, *, production: bool) -> str:
    """Return what a reference stands for.

    Raises:
        SettingError: it cannot be looked up.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    service, _, place = reference.partition(":")
    name, _, key = place.partition("#")
    try:
        client = _client(service)
        if production and (fault := endpoint_fault(client)):
            raise SettingError(f"{setting}: {fault}")
        if service == SECRETS_MANAGER:
            answer = client.get_secret_value(SecretId=name)
            text = None if "SecretBinary" in answer else answer["SecretString"]
        else:
            text = client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise SettingError(f"{setting}: {reference} {_reason(code, service)}") from None
    except BotoCoreError as error:
        raise SettingError(f"{setting}: {LOCAL_FAULTS.get(type(error).__name__, OUT_OF_REACH)}") from None
    except (ValueError, TypeError, LookupError, AttributeError):
        # What botocore, and the lines above, make of an answer that is not the service's.
        raise SettingError(
            f"{setting}: the endpoint does not answer as AWS does: mend AWS_ENDPOINT_URL, or unset it"
        ) from None
    value = _value_of(text, key) if key else text
    if not isinstance(value, str) or not value.strip():
        raise SettingError(f"{setting}: {reference} holds no text{f' under {key}' if key else ''}: mend one of them")
    return value.strip()


def _client(service: str) -> Any:
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
    config = Config(retries=retries, connect_timeout=_SECONDS, read_timeout=_SECONDS, user_agent_extra="loginpipe")
    which: Any = service
    # boto3 itself reads AWS_DEFAULT_REGION only.
    return aws_session().client(which, region_name=os.environ.get("AWS_REGION"), config=config)


def _value_of(text: str | None, key: str) -> object:
    try:
        document = json.loads(text or "")
    except ValueError:
        return None
    return document.get(key) if isinstance(document, dict) else None


def _reason(code: str, service: str) -> str:
    if code in _ABSENT:
        return "does not exist in this account and region: create it, or mend its name or AWS_REGION"
    if code in _DENIED:
        action = "secretsmanager:GetSecretValue" if service == SECRETS_MANAGER else "ssm:GetParameter"
        return f"may not be read with these credentials ({code}): grant {action}, and kms:Decrypt on its key"
    if code in CREDENTIALS:
        return f"cannot be read: AWS refuses the credentials ({code}): renew them"
    if code in UNAVAILABLE:
        return f"is out of reach for now (its endpoint answered {code}): try again later"
    return f"cannot be read: AWS answered {code}"
