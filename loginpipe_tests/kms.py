"""Keys in the embedded endpoint's KMS."""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient


def named(kms: "KMSClient", key_id: str) -> str:
    """Give a key an alias, and return the alias."""
    alias = f"alias/{uuid4().hex}"
    kms.create_alias(AliasName=alias, TargetKeyId=key_id)
    return alias


def new_key(kms: "KMSClient", spec: Any, usage: Any) -> str:
    """Make a key, and return its alias."""
    return named(kms, kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])


def token_key(kms: "KMSClient") -> str:
    return new_key(kms, "HMAC_256", "GENERATE_VERIFY_MAC")


def seal_key(kms: "KMSClient") -> str:
    return new_key(kms, "RSA_3072", "ENCRYPT_DECRYPT")
