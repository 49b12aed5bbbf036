"""The Dagster resource of the keys: masks and seals, and can open nothing."""

import dagster as dg
from pydantic import PrivateAttr

from loginpipe.common.settings import Settings
from loginpipe.ingest.process import Masking
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.keys import key_warnings, load_keys
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import TokenKeys


class MaskingResource(dg.ConfigurableResource["MaskingResource"]):
    """The token keys, and the public keys that recoverable values are sealed for."""

    settings: dg.ResourceDependency[Settings]

    _token_keys: TokenKeys = PrivateAttr()
    _recipients: tuple[SealKey, ...] = PrivateAttr()
    _compat: CompatMasking | None = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Load the keys, once for the run; say what is not as it should be in the long run."""
        self._token_keys, self._recipients, self._compat = load_keys(self.settings)
        if context.log:
            for warning in key_warnings(self._recipients, self._compat):
                context.log.warning("%s", warning)

    @property
    def masking(self) -> str:
        """How values are masked, as LOGINPIPE_MASKING."""
        return self.settings.masking

    @property
    def keys(self) -> TokenKeys:
        """The token keys."""
        return self._token_keys

    @property
    def loaded(self) -> Masking:
        """The keys as they were loaded."""
        return Masking(self._token_keys, self._recipients, self._compat)
