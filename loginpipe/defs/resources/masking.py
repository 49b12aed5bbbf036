"""Define the Dagster resource of the keys, which masks and seals but cannot open values."""

import dagster as dg
from pydantic import PrivateAttr

from loginpipe.common.settings import Settings
from loginpipe.ingest.masking import load_masking, masking_warnings
from loginpipe.ingest.process import Masking
from loginpipe.masking.tokens import TokenKeys


class MaskingResource(dg.ConfigurableResource["MaskingResource"]):
    """The token keys, and the public keys to seal recoverable values for."""

    settings: dg.ResourceDependency[Settings]

    _loaded: Masking = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Load the keys once for the run, and log their warnings."""
        self._loaded = load_masking(self.settings)
        if context.log:
            for warning in masking_warnings(self._loaded):
                context.log.warning("%s", warning)

    @property
    def masking(self) -> str:
        """The value of LOGINPIPE_MASKING."""
        return self.settings.masking

    @property
    def keys(self) -> TokenKeys:
        """The token keys."""
        return self._loaded.keys

    @property
    def fate_of_unknown_fields(self) -> str:
        """What happens to fields outside the contract."""
        return self._loaded.unknown_fields.fate(sealing=bool(self._loaded.recipients))

    @property
    def loaded(self) -> Masking:
        """The loaded keys."""
        return self._loaded
