"""Describe the columns of each asset for the UI: names, types, personal data, and lineage."""

from collections.abc import Mapping

import dagster as dg

from loginpipe.defs.metadata.groups import asset_key

PII = "loginpipe/pii"
"""Column tag: ``clear`` (in memory only), ``sealed`` or ``token``."""

_MEANINGS = {
    "message_id": ("uuid", "SQS message id: the deduplication key"),
    "sent_at": ("timestamp (UTC)", "SentTimestamp of the message: the time of the login"),
    "received_at": ("timestamp (UTC)", "When this run received the message"),
    "receive_count": ("integer", "How often SQS has delivered the message"),
    "body_intact": ("boolean", "The body's MD5 is the one SQS computed"),
    "user_id": ("varchar(128)", "As received"),
    "device_type": ("varchar(32)", "As received"),
    "locale": ("varchar(32)", "As received, or NULL"),
    "app_version": ("integer", "1,000,000 major + 1,000 minor + patch; `loginpipe.app_version_text` decodes it"),
    "create_date": ("date", "UTC date of the login"),
    "users": ("integer", "Distinct users"),
    "logins": ("bigint", "Logins"),
    "first_date": ("date", "UTC date of the first login"),
    "last_date": ("date", "UTC date of the last login"),
    "reasons": ("text[]", "Reason codes"),
    "fields": ("text[]", "The field that each reason is about"),
}
_PERSONAL = {
    "body": ("text", "The message as received", "clear"),
    "ip": ("text", "IPv4 or IPv6 address", "clear"),
    "device_id": ("text", "Device id", "clear"),
    "masked_ip": (
        "varchar(256)",
        "Token of the canonical address: `ip.v1.` (1 is the key version) and 43 characters",
        "token",
    ),
    "masked_device_id": (
        "varchar(256)",
        "Token of the canonical device id: `dev.v1.` and 43 characters",
        "token",
    ),
    "sealed_body": ("bytea", "The message as received, sealed with the public key", "sealed"),
}


def column_schema(*names: str) -> dict[str, dg.TableSchema]:
    """Return the metadata entry that shows these columns in the UI."""
    return {"dagster/column_schema": dg.TableSchema([_column(name) for name in names])}


def column_lineage(upstream: str, sources: Mapping[str, str]) -> dict[str, dg.TableColumnLineage]:
    """Return the metadata entry that shows where columns come from: column → its source in the upstream asset."""
    key = asset_key(upstream)
    return {
        "dagster/column_lineage": dg.TableColumnLineage(
            {column: [dg.TableColumnDep(key, source)] for column, source in sources.items()}
        )
    }


def _column(name: str) -> dg.TableColumn:
    if name in _PERSONAL:
        type_, meaning, kind = _PERSONAL[name]
        return dg.TableColumn(name, type_, meaning, tags={PII: kind})
    return dg.TableColumn(name, *_MEANINGS[name])
