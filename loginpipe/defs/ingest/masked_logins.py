"""Stage 3: replace personal data with tokens, and seal the values of new tokens. No later stage has clear values."""

from typing import Any

import dagster as dg

from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.defs.metadata import GROUP, OWNERS, asset_key, bar_plot, column_lineage, column_schema
from loginpipe.defs.resources import MaskingResource
from loginpipe.ingest.totals import RunTotals
from loginpipe.masking.mask import MASKED_COLUMNS

_COLUMNS = ("message_id", "sent_at", *(name for name, _ in USER_LOGINS_COLUMNS))
_MADE_FROM = {**MASKED_COLUMNS, "create_date": "sent_at"}

MASKED_LOGINS = dg.AssetSpec(
    asset_key("masked_logins"),
    deps=[asset_key("validated_logins")],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pandas"},
    code_version="3",
    metadata={
        **column_schema(*_COLUMNS),
        **column_lineage("validated_logins", {name: _MADE_FROM.get(name, name) for name in _COLUMNS}),
    },
    description=(
        "The validated logins with address and device id replaced by tokens (HMAC-SHA-256 with a secret key). Equal "
        "values have equal tokens. The original values are sealed with a public key; the pipeline cannot open them."
    ),
)


def masked_logins(totals: RunTotals, masking: MaskingResource) -> dict[str, Any]:
    """Return the metadata of the logins that a run masked."""
    shares = {name: seen / totals.accepted if totals.accepted else 0.0 for name, seen in totals.seen_before.items()}
    return {
        "dagster/row_count": totals.accepted,
        "seen_before": bar_plot(
            "% of logins with a value seen before, without placeholders",
            {name: 100 * share for name, share in shares.items()},
        ),
        "newly_sealed": totals.sealed,
        "masking": masking.masking,
        "token_key_version": masking.keys.current,
        "aliases": totals.aliases,
        **{f"{name}_seen_before": share for name, share in shares.items()},
    }
