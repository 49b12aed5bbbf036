"""Keep token keys, or the salt of an older scheme, in AWS Secrets Manager: the provider ``secretsmanager:``.

A secret holds the same document as a file (`loginpipe.masking.token_key_document`). The keys of the stages AWSCURRENT
and AWSPREVIOUS are merged, so a rotation function of AWS that stores the new version alone leaves the previous version
readable. `rotate_secret` stores all versions in the new document, so that none is lost later.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from loginpipe.common.aws import Wording, aws_client, aws_errors
from loginpipe.common.errors import KeyFileError
from loginpipe.masking.token_key_document import TokenKeyDocument, parse_document, rotated, united
from loginpipe.masking.tokens import TokenKeys

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

_READ = "secretsmanager:GetSecretValue, and kms:Decrypt on the key it is encrypted with"
_WRITE = "secretsmanager:PutSecretValue, and kms:GenerateDataKey on the key it is encrypted with"

_OWN = {
    "DecryptionFailure": "cannot be decrypted by Secrets Manager: look at the KMS key it is encrypted with",
    "InvalidRequestException": "is marked for deletion: restore it, or name another",
    "ParamValidationError": "is no name of a secret: give its name or ARN",
    "ValidationException": "is no name of a secret: give its name or ARN",
}


def secrets_manager_client(*, production: bool) -> "SecretsManagerClient":
    """Return a client of Secrets Manager.

    Raises:
        KeyFileError: no region, a wrong profile or endpoint, or in production an endpoint without https.
    """
    client: SecretsManagerClient = aws_client(
        "secretsmanager", Wording(KeyFileError, "Secrets Manager"), production=production
    )
    return client


def read_secret_token_keys(client: "SecretsManagerClient", name: str) -> TokenKeys:
    """Read a secret and derive its token keys.

    Raises:
        KeyFileError: the secret is absent, refused, marked for deletion, or no token key document.
    """
    return _document(client, name).derived()


def rotate_secret(client: "SecretsManagerClient", name: str) -> TokenKeys:
    """Add a new version to a secret and make it the current one.

    Raises:
        KeyFileError: the secret cannot be read or written.
    """
    document = rotated(_document(client, name), _secret(name))
    with _errors(name, _WRITE):
        client.put_secret_value(SecretId=name, SecretString=document.text())
    return document.derived()


def read_secret_salt(client: "SecretsManagerClient", name: str) -> bytes:
    """Read a salt: the secret's string as UTF-8, without final line breaks.

    Raises:
        KeyFileError: the secret is absent, refused, marked for deletion, or no string.
    """
    return _current(client, name).rstrip("\r\n").encode("utf-8", "surrogatepass")


def _secret(name: str) -> str:
    return f"the secret {name}"


def _errors(name: str, permissions: str) -> AbstractContextManager[None]:
    return aws_errors(Wording(KeyFileError, _secret(name), grant=permissions, own=_OWN))


def _document(client: "SecretsManagerClient", name: str) -> TokenKeyDocument:
    what = _secret(name)
    current = parse_document(_current(client, name), what)
    previous = _string(client, name, "AWSPREVIOUS")
    if previous is None:
        return current
    return united(current, parse_document(previous, f"the stage AWSPREVIOUS of {what}"), what)


def _current(client: "SecretsManagerClient", name: str) -> str:
    text = _string(client, name, "AWSCURRENT")
    if text is None:
        raise KeyFileError(
            f"{_secret(name)} does not exist in this account and region, or holds no value: create it with one, or "
            "fix its name or AWS_REGION"
        )
    return text


def _string(client: "SecretsManagerClient", name: str, stage: str) -> str | None:
    """Return the string of a stage, or None if the stage or the secret does not exist: AWS uses one code for both."""
    with _errors(name, _READ):
        try:
            value = client.get_secret_value(SecretId=name, VersionStage=stage)
        except client.exceptions.ResourceNotFoundException:
            return None
        if "SecretBinary" in value:
            raise KeyFileError(f"{_secret(name)} holds bytes in {stage}: put the text as its SecretString")
        return value["SecretString"]
