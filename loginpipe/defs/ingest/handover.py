"""How frames go from asset to asset: in memory, within one run. Personal data in clear is never written anywhere."""

from typing import Any

import dagster as dg

from loginpipe.common.errors import UpstreamMissingError

HANDOVER = "handover"
"""Resource key of the I/O manager: without it an asset fails, and never falls back to one that writes files."""

WHOLE_CHAIN = "--select 'group:login_ingest'"
"""What to select for a run of the whole chain."""


class Handover(dg.InMemoryIOManager):
    """Keeps the outputs of one run in memory; says what to select where an input was not made in the same run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run_id: str | None = None

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Keep an output; what an earlier run in this process left goes."""
        if context.run_id != self._run_id:
            self.values.clear()
            self._run_id = context.run_id
        super().handle_output(context, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """Return the upstream's output.

        Raises:
            UpstreamMissingError: the upstream asset is not part of this run.
        """
        if tuple(context.get_identifier()) not in self.values:
            upstream = context.asset_key.to_user_string() if context.has_asset_key else "its upstream"
            raise UpstreamMissingError(
                f"this asset takes its rows from {upstream} in the same run, since nothing is stored in between: "
                f"materialise the whole chain, {WHOLE_CHAIN}"
            )
        return super().load_input(context)
