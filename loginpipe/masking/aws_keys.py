"""Use keys in AWS: those of KMS (``awskms:``), and those in secrets of Secrets Manager (``secretsmanager:``).

Keys in KMS never leave it. A token key is an HMAC_256 key. Only its MAC of each field's `derivation_label` leaves KMS:
the same derived key that a file with this key would give. This takes one call per field and version at start. The seal
key is an RSA key. Its public half is fetched; its private half is used by KMS' ``Decrypt``, which the pipeline has no
permission for.

A secret holds the same document as a file (`loginpipe.masking.tokens`), or the salt of an older scheme. The
keys of the stages AWSCURRENT and AWSPREVIOUS are merged, so a rotation function of AWS that stores the new version
alone leaves the previous version readable. `rotate_secret` stores all versions in the new document, so that none is
lost later.

Failures are `KeyFileError`s that name the key or the secret, and the fix.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loginpipe.common.aws import Wording, aws_client, aws_errors
from loginpipe.common.errors import KeyFileError
from loginpipe.masking.key_files import SEAL_KEY_BITS
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import (
    KEYED_FIELDS,
    TOKEN_KEY_BYTES,
    TokenKeyDocument,
    TokenKeys,
    derivation_label,
    parse_document,
    rotated,
    united,
)

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient


_NO_NAME = "is no name of a key: give a key id, an ARN or alias/…"
_KMS_ERRORS = {
    "DisabledException": "is disabled: enable it, or name another",
    "InvalidArnException": _NO_NAME,
    "InvalidKeyUsageException": "is for another use: see docs/security.md for the kind of key that is needed",
    "KMSInvalidStateException": "cannot be used in the state it is in: look at its state in AWS",
    "KeyUnavailableException": "is not available at the moment: try again later",
    "ParamValidationError": _NO_NAME,
    "ValidationException": _NO_NAME,
}

_MAC_PERMISSIONS = "kms:DescribeKey and kms:GenerateMac"
_PUBLIC_KEY_PERMISSIONS = "kms:DescribeKey and kms:GetPublicKey"


def kms_client(*, production: bool) -> "KMSClient":
    """Return a client of KMS."""
    client: KMSClient = aws_client("kms", Wording(KeyFileError, "KMS"), production=production)
    return client


def kms_errors(key_id: str, permissions: str) -> AbstractContextManager[None]:
    """Turn botocore's errors into a `KeyFileError` that names the key and the fix."""
    return aws_errors(Wording(KeyFileError, kms_key(key_id), grant=permissions, own=_KMS_ERRORS))


def read_kms_token_keys(client: "KMSClient", key_ids: Mapping[int, str]) -> TokenKeys:
    """Derive the token keys in KMS. The highest version is the current one."""
    derived = {version: _derived(client, key_id) for version, key_id in sorted(key_ids.items())}
    if len({keys["ip"] for keys in derived.values()}) < len(derived):
        raise KeyFileError("two versions of LOGINPIPE_TOKEN_KEYS are one KMS key: a new version needs a key of its own")
    return TokenKeys(max(derived), derived)


def read_kms_seal_key(client: "KMSClient", key_id: str) -> SealKey:
    """Fetch the public half of a seal key."""
    what = kms_key(key_id)
    _require_usable(client, key_id, "ENCRYPT_DECRYPT", "RSA_", _PUBLIC_KEY_PERMISSIONS)
    with kms_errors(key_id, _PUBLIC_KEY_PERMISSIONS):
        key = serialization.load_der_public_key(client.get_public_key(KeyId=key_id)["PublicKey"])
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < SEAL_KEY_BITS:
        raise KeyFileError(
            f"{what} must be an RSA key of {SEAL_KEY_BITS} bits or more: make one of RSA_{SEAL_KEY_BITS}"
        )
    return SealKey(key)


def kms_key(key_id: str) -> str:
    """Return the name of a key for a message."""
    return f"the KMS key {key_id}"


def _derived(client: "KMSClient", key_id: str) -> dict[str, bytes]:
    _require_usable(client, key_id, "GENERATE_VERIFY_MAC", "HMAC_256", _MAC_PERMISSIONS)
    with kms_errors(key_id, _MAC_PERMISSIONS):
        keys = {
            name: client.generate_mac(KeyId=key_id, Message=derivation_label(name), MacAlgorithm="HMAC_SHA_256")["Mac"]
            for name in KEYED_FIELDS
        }
        if any(len(key) != TOKEN_KEY_BYTES for key in keys.values()):
            raise ValueError
    return keys


def _require_usable(client: "KMSClient", key_id: str, usage: str, spec: str, permissions: str) -> None:
    what = kms_key(key_id)
    with kms_errors(key_id, permissions):
        metadata = client.describe_key(KeyId=key_id)["KeyMetadata"]
        state, found_usage, found_spec = metadata["KeyState"], metadata["KeyUsage"], metadata["KeySpec"]
    if state != "Enabled":
        raise KeyFileError(f"{what} is not enabled, its state is {state}: enable it, or name another")
    if found_usage != usage or not found_spec.startswith(spec):
        wanted = f"{spec}{SEAL_KEY_BITS}" if spec.endswith("_") else spec
        raise KeyFileError(f"{what} is of {found_spec} for {found_usage}: name one of {wanted} for {usage}")


_READ = "secretsmanager:GetSecretValue, and kms:Decrypt on the key it is encrypted with"
_WRITE = "secretsmanager:PutSecretValue, and kms:GenerateDataKey on the key it is encrypted with"

_SECRET_ERRORS = {
    "DecryptionFailure": "cannot be decrypted by Secrets Manager: look at the KMS key it is encrypted with",
    "InvalidRequestException": "is marked for deletion: restore it, or name another",
    "ParamValidationError": "is no name of a secret: give its name or ARN",
    "ValidationException": "is no name of a secret: give its name or ARN",
}


def secrets_manager_client(*, production: bool) -> "SecretsManagerClient":
    """Return a client of Secrets Manager."""
    client: SecretsManagerClient = aws_client(
        "secretsmanager", Wording(KeyFileError, "Secrets Manager"), production=production
    )
    return client


def read_secret_token_keys(client: "SecretsManagerClient", name: str) -> TokenKeys:
    """Read a secret and derive its token keys."""
    return _document(client, name).derived()


def rotate_secret(client: "SecretsManagerClient", name: str) -> TokenKeys:
    """Add a new version to a secret and make it the current one."""
    document = rotated(_document(client, name), _secret(name))
    with _secret_errors(name, _WRITE):
        client.put_secret_value(SecretId=name, SecretString=document.text())
    return document.derived()


def read_secret_salt(client: "SecretsManagerClient", name: str) -> bytes:
    """Read a salt: the secret's string as UTF-8, without final line breaks."""
    return _current(client, name).rstrip("\r\n").encode("utf-8", "surrogatepass")


def _secret(name: str) -> str:
    return f"the secret {name}"


def _secret_errors(name: str, permissions: str) -> AbstractContextManager[None]:
    return aws_errors(Wording(KeyFileError, _secret(name), grant=permissions, own=_SECRET_ERRORS))


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
    with _secret_errors(name, _READ):
        try:
            value = client.get_secret_value(SecretId=name, VersionStage=stage)
        except client.exceptions.ResourceNotFoundException:
            return None
        if "SecretBinary" in value:
            raise KeyFileError(f"{_secret(name)} holds bytes in {stage}: put the text as its SecretString")
        return value["SecretString"]
