"""Resolve secret settings. Instead of its value, one may be a reference to the place of the value.

    secretsmanager:NAME         a secret's string; its name or ARN
    secretsmanager:NAME#KEY     one value of a secret that is a JSON object
    secretsmanager:NAME         for the database URL also a login in the format of RDS: a JSON object with username and
                                password, and with host, port and dbname unless variables like PGHOST set them
    ssm:/NAME                   a parameter, decrypted
    vault:MOUNT/PATH#KEY        one value of a secret of HashiCorp Vault's KV, version 2; VAULT_ADDR and VAULT_TOKEN

This is for machines without injected secrets. ECS and Kubernetes put secrets into the environment themselves.
Failures are `SettingError`s, which never show a value.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

from loginpipe.common.aws import Wording, aws_client, aws_errors, is_loopback
from loginpipe.common.errors import SettingError
from loginpipe.common.settings import (
    PREFIX,
    SECRETS_MANAGER,
    VAULT,
    Settings,
    database_url_problem,
    is_reference,
    webhook_url_problem,
)

# A sensor reads a secret every few seconds. A rotated password takes effect within this time.
_KEPT_SECONDS = 300
# A sensor tick has a minute for everything.
_READ_SECONDS = 5
_ATTEMPTS = 3

# Reference → time of reading, and the secret.
_kept: dict[str, tuple[float, str]] = {}


def database_url(settings: Settings, *, kept: bool = True) -> str:
    """Return the URL of the warehouse. Look it up if the setting is a reference.

    If `kept` is True, accept a value that was looked up in the last five minutes.
    """
    value = settings.required("database_url")
    if not kept:
        _kept.pop(value, None)
    return _looked_up("database_url", value, settings, problem=database_url_problem, read_as=_keywords_of_login)


def alert_webhook_url(settings: Settings) -> str | None:
    """Return the webhook URL for alerts, or None. Look it up if the setting is a reference."""
    value, problem = settings.alert_webhook_url, partial(webhook_url_problem, production=settings.production)
    return None if value is None else _looked_up("alert_webhook_url", value, settings, problem=problem)


def _looked_up(
    name: str,
    value: str,
    settings: Settings,
    *,
    problem: Callable[[str], str | None],
    read_as: Callable[[str], str] = str,
) -> str:
    if not is_reference(value):
        return value
    setting = PREFIX + name.upper()
    read_at, found = _kept.get(value, (0.0, ""))
    if not found or time.monotonic() - read_at > _KEPT_SECONDS:
        found = read_as(_read(setting, value, production=settings.production))
        _kept[value] = (time.monotonic(), found)
    if wrong := problem(found):
        del _kept[value]
        raise SettingError(f"{setting}: the value of {value} {wrong}")
    return found


def _read(setting: str, reference: str, *, production: bool) -> str:
    """Look up a reference."""
    service, _, place = reference.partition(":")
    name, _, key = place.partition("#")
    if service == VAULT:
        value = _read_vault(setting, reference, name, production=production).get(key)
    else:
        text = _read_aws(setting, reference, service, name, production=production)
        value = _value_of(text, key) if key else text
    if not isinstance(value, str) or not value.strip():
        raise SettingError(
            f"{setting}: {reference} holds no text{f' under {key}' if key else ''}: fix the reference or the secret"
        )
    return value.strip()


def _read_aws(setting: str, reference: str, service: str, name: str, *, production: bool) -> str | None:
    action = "secretsmanager:GetSecretValue" if service == SECRETS_MANAGER else "ssm:GetParameter"
    wording = Wording(SettingError, f"{setting}: {reference}", grant=f"{action}, and kms:Decrypt on its key")
    client = aws_client(service, wording, production=production, attempts=_ATTEMPTS, read_seconds=_READ_SECONDS)
    with aws_errors(wording):
        if service == SECRETS_MANAGER:
            answer = client.get_secret_value(SecretId=name)
            return None if "SecretBinary" in answer else str(answer["SecretString"])
        return str(client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])


def _read_vault(setting: str, reference: str, name: str, *, production: bool) -> Mapping[str, object]:
    """Return the values of the newest version of a secret in Vault."""
    subject = f"{setting}: {reference}"
    try:
        import hvac
        from requests import RequestException
    except ImportError:
        raise SettingError(f"{subject} needs hvac: run `pip install 'loginpipe[vault]'`") from None
    address = urlsplit(os.environ.get("VAULT_ADDR", ""))
    if not address.hostname:
        raise SettingError(f"{subject}: set VAULT_ADDR to the URL of Vault, https://…, and VAULT_TOKEN")
    if production and address.scheme != "https" and not is_loopback(address.hostname):
        raise SettingError(f"{subject}: production requires https for Vault: set VAULT_ADDR to an https:// URL")
    mount, _, path = name.partition("/")
    try:
        vault = hvac.Client(timeout=_READ_SECONDS, namespace=os.environ.get("VAULT_NAMESPACE"))
        answer = vault.secrets.kv.v2.read_secret_version(path, mount_point=mount, raise_on_deleted_version=True)
        values = answer["data"]["data"]
    except hvac.exceptions.InvalidPath:
        raise SettingError(f"{subject} does not exist: create it, in version 2 of KV, or fix its name") from None
    except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized):
        raise SettingError(f"{subject} may not be read with VAULT_TOKEN: renew it, or let its policy read it") from None
    except (hvac.exceptions.VaultError, RequestException, ValueError, LookupError, TypeError):
        raise SettingError(
            f"{subject}: Vault did not answer: check that it is unsealed, and check VAULT_ADDR"
        ) from None
    return values if isinstance(values, dict) else {}


def _keywords_of_login(text: str) -> str:
    """Convert a login in the format of RDS to libpq keywords. Return any other text unchanged."""
    login = _value_of(text)
    if not isinstance(login, dict) or not {"username", "password"} <= login.keys():
        return text
    names = {"user": "username", "password": "password", "host": "host", "port": "port", "dbname": "dbname"}
    values = {
        keyword: re.sub(r"(['\\])", r"\\\1", str(login[name])) for keyword, name in names.items() if name in login
    }
    return " ".join(f"{keyword}='{value}'" for keyword, value in values.items())


def _value_of(text: str | None, key: str | None = None) -> object:
    """Return a value of a JSON object, or the whole object without a key; None if the text is no JSON object."""
    try:
        document = json.loads(text or "")
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    return document if key is None else document.get(key)
