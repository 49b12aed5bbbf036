"""Stage 3: personal data becomes tokens, and what the new tokens stand for is sealed. No clear value goes further."""

from collections.abc import Iterator

import dagster as dg
import pandas as pd

from loginpipe.assets.columns import column_schema
from loginpipe.assets.group import GROUP, OWNERS
from loginpipe.checks import ONLY_TOKENS, only_tokens
from loginpipe.handover import HANDOVER
from loginpipe.logins.user_logins import USER_LOGINS_COLUMNS
from loginpipe.masking.mask import MaskedBatch
from loginpipe.masking.tombstones import ERASURES
from loginpipe.resources import MaskingResource, PostgresResource


@dg.asset(
    group_name=GROUP,
    io_manager_key=HANDOVER,
    owners=OWNERS,
    kinds={"pandas"},
    code_version="1",
    check_specs=[ONLY_TOKENS],
    metadata=column_schema("message_id", "sent_at", *(name for name, _ in USER_LOGINS_COLUMNS)),
    description=(
        "The same logins with address and device id replaced by tokens (HMAC-SHA-256 under a secret key): equal values "
        "have equal tokens. What the tokens stand for is sealed with a public key; the pipeline cannot open it."
    ),
)
def masked_logins(
    validated_logins: pd.DataFrame, postgres: PostgresResource, masking: MaskingResource
) -> Iterator[dg.Output[MaskedBatch] | dg.AssetCheckResult]:
    """Mask and seal; the blocking check refuses the batch if a cell of a masked column is no token."""
    masked = masking.mask(validated_logins)
    tokens = [token for values in masked.originals.values() for token in values]
    sealed = masking.seal_originals(masked, postgres.known_tokens(tokens) if masking.sealing else frozenset())
    yield dg.Output(
        MaskedBatch(masked.logins, sealed, masked.aliases, validated_logins.attrs.get(ERASURES)),
        metadata={
            "dagster/row_count": len(masked.logins),
            "distinct_ips": len(masked.originals["ip"]),
            "distinct_devices": len(masked.originals["device_id"]),
            "newly_sealed": len(sealed.values),
            "masking": masking.masking,
            "token_key_version": masking.keys.current,
            "aliases": len(masked.aliases),
        },
    )
    yield only_tokens(masked.logins, masking.compat)
