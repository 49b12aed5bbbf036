"""Stage 3: personal data becomes tokens, and what the new tokens stand for is sealed. No clear value goes further."""

from collections.abc import Iterator
from itertools import chain

import dagster as dg
import pandas as pd

from loginpipe.defs.ingest.checks import ONLY_TOKENS, only_tokens
from loginpipe.defs.ingest.handover import HANDOVER
from loginpipe.defs.ingest.timing import stopwatch
from loginpipe.defs.metadata.columns import column_lineage, column_schema
from loginpipe.defs.metadata.groups import GROUP, OWNERS
from loginpipe.defs.metadata.plots import bar_plot
from loginpipe.defs.resources import MaskingResource, PostgresResource
from loginpipe.logins.user_logins import USER_LOGINS_COLUMNS
from loginpipe.masking.mask import ERASURES, MASKED_COLUMNS, MaskedBatch, seen_before

_COLUMNS = ("message_id", "sent_at", *(name for name, _ in USER_LOGINS_COLUMNS))
_MADE_FROM = {**MASKED_COLUMNS, "create_date": "sent_at"}


@dg.asset(
    group_name=GROUP,
    io_manager_key=HANDOVER,
    owners=OWNERS,
    kinds={"pandas"},
    code_version="1",
    check_specs=[ONLY_TOKENS],
    metadata={
        **column_schema(*_COLUMNS),
        **column_lineage("validated_logins", {name: _MADE_FROM.get(name, name) for name in _COLUMNS}),
    },
    description=(
        "The same logins with address and device id replaced by tokens (HMAC-SHA-256 under a secret key): equal values "
        "have equal tokens. What the tokens stand for is sealed with a public key; the pipeline cannot open it."
    ),
)
def masked_logins(
    context: dg.AssetExecutionContext,
    validated_logins: pd.DataFrame,
    postgres: PostgresResource,
    masking: MaskingResource,
) -> Iterator[dg.Output[MaskedBatch] | dg.AssetCheckResult]:
    """Mask and seal; the blocking check refuses the batch if a cell of a masked column is no token."""
    seconds = stopwatch()
    masked = masking.mask(validated_logins)
    known = postgres.known_tokens(chain.from_iterable(masked.originals.values())) if masking.sealing else frozenset()
    sealed = masking.seal_originals(masked, known)
    seen = seen_before(masked, known)
    context.log.info(
        "masked %d logins, sealed %d new values",
        len(masked.logins),
        len(sealed),
        extra={"masked": len(masked.logins), "newly_sealed": len(sealed), "seconds": seconds()},
    )
    yield dg.Output(
        MaskedBatch(masked.logins, sealed, masked.aliases, validated_logins.attrs.get(ERASURES)),
        metadata={
            "dagster/row_count": len(masked.logins),
            "seen_before": bar_plot(
                "% of logins with a value seen before", {name: 100 * share for name, share in seen.items()}
            ),
            "distinct_ips": len(masked.originals["ip"]),
            "distinct_devices": len(masked.originals["device_id"]),
            "newly_sealed": len(sealed),
            "masking": masking.masking,
            "token_key_version": masking.keys.current,
            "aliases": len(masked.aliases),
            "ip_seen_before": seen["ip"],
            "device_id_seen_before": seen["device_id"],
        },
    )
    yield only_tokens(masked.logins, masking.compat)
