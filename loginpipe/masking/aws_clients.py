"""Clients of the AWS services that hold keys, and their failures as one-line errors, told apart by code."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loginpipe.common.aws import (
    CREDENTIALS,
    LOCAL_FAULTS,
    MALFORMED,
    OUT_OF_REACH,
    UNAVAILABLE,
    aws_session,
    endpoint_fault,
)
from loginpipe.common.errors import KeyFileError

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

_ATTEMPTS = 5
_CONNECT_SECONDS = 5
_READ_SECONDS = 30

_ABSENT = frozenset({"NotFoundException", "ResourceNotFoundException"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})

# What a code says of a key or a secret, and the mend. Those of credentials and access come first.
_FAULTS: Mapping[str, str] = {
    "DisabledException": "is disabled: enable it, or name another",
    "InvalidArnException": "is no name of a key: give a key id, an ARN or alias/…",
    "InvalidKeyUsageException": "is for another use: see docs/security.md for the kind of key that is wanted",
    "InvalidRequestException": "is marked for deletion: restore it, or name another",
    "KMSInvalidStateException": "cannot be used in the state it is in: look at its state in AWS",
    "KeyUnavailableException": "is not available at the moment: try again later",
    "DecryptionFailure": "cannot be decrypted by Secrets Manager: look at the KMS key it is encrypted with",
    "ValidationException": "is no name of a key: give a key id, an ARN or alias/…",
}


def kms_client(*, production: bool) -> "KMSClient":
    """Return a client of KMS; region, endpoint and credentials are boto3's.

    Raises:
        KeyFileError: no region, a wrong profile or endpoint; in production also an endpoint that is not https.
    """
    client: KMSClient = _client("kms", "KMS", production=production)
    return client


def secrets_manager_client(*, production: bool) -> "SecretsManagerClient":
    """Return a client of Secrets Manager; region, endpoint and credentials are boto3's.

    Raises:
        KeyFileError: as `kms_client`.
    """
    client: SecretsManagerClient = _client("secretsmanager", "Secrets Manager", production=production)
    return client


def _client(service: Any, name: str, *, production: bool) -> Any:
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        user_agent_extra="loginpipe",
    )
    with key_errors(name, "everything"):
        try:
            # boto3 itself reads AWS_DEFAULT_REGION only.
            region = os.environ.get("AWS_REGION")
            client = aws_session().client(service, region_name=region, config=config)
        except ValueError:
            raise KeyFileError(f"{name}: AWS_ENDPOINT_URL is no URL: set it to https://host:port or unset it") from None
    if production and (fault := endpoint_fault(client)):
        raise KeyFileError(f"{name}: {fault}")
    return client


@contextmanager
def key_errors(what: str, permissions: str) -> Iterator[None]:
    """Turn botocore's errors into a `KeyFileError` that names the key and the mend.

    Args:
        what: the key or the secret, as in ``the KMS key alias/tokens``.
        permissions: the IAM actions that the call needs.
    """
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise KeyFileError(f"{what} {_reason(code, permissions)}") from None
    except ParamValidationError:
        raise KeyFileError(f"{what} {_FAULTS['ValidationException']}") from None
    except BotoCoreError as error:
        raise KeyFileError(f"{what}: {LOCAL_FAULTS.get(type(error).__name__, OUT_OF_REACH)}") from None
    except MALFORMED:
        raise KeyFileError(
            f"{what} is at an endpoint that does not answer as AWS does: mend AWS_ENDPOINT_URL"
        ) from None


def _reason(code: str, permissions: str) -> str:
    if code in _ABSENT:
        return "does not exist in this account and region: create it, or mend its name or AWS_REGION"
    if code in _DENIED:
        return f"may not be used with these credentials ({code}): grant {permissions}"
    if code in CREDENTIALS:
        return f"cannot be used: AWS refuses the credentials ({code}): renew them"
    if code in UNAVAILABLE:
        return f"is out of reach for now (its endpoint answered {code}): try again later"
    return _FAULTS.get(code, f"cannot be used: AWS answered {code}")
