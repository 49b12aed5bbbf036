"""The Dagster resource of the keys: masks and seals, and can open nothing."""

from collections.abc import Sequence

import dagster as dg
from pydantic import PrivateAttr

from loginpipe.common.runbook import runbook
from loginpipe.common.settings import Settings
from loginpipe.ingest.process import Masking
from loginpipe.logins.extras import UnknownFields, personal_warning
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.keys import load_compat, load_seal_keys, load_token_keys
from loginpipe.masking.placeholders import PlaceholderToken, placeholder_tokens
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import TokenKeys


class MaskingResource(dg.ConfigurableResource["MaskingResource"]):
    """The token keys, and the public keys that recoverable values are sealed for."""

    settings: dg.ResourceDependency[Settings]

    _token_keys: TokenKeys = PrivateAttr()
    _recipients: tuple[SealKey, ...] = PrivateAttr()
    _compat: CompatMasking | None = PrivateAttr()
    _placeholders: Sequence[PlaceholderToken] = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Load the keys, once for the run; say what is not as it should be in the long run."""
        settings = self.settings
        production, pinned = settings.production, settings.seal_key_fingerprint
        token_keys, seal_key = settings.required("token_keys"), settings.required("seal_key")
        self._token_keys = load_token_keys(token_keys, production=production)
        self._recipients = load_seal_keys(seal_key, fingerprint=pinned, production=production)
        self._compat = load_compat(settings.masking, settings.compat_salt, production=production)
        self._placeholders = placeholder_tokens(settings.further_placeholders, self._token_keys, self._compat)
        if not self._recipients and context.log:
            context.log.warning(
                "LOGINPIPE_SEAL_KEY is off: neither masked values nor the bodies of rejected messages can be recovered"
                ", and unknown fields of logins are dropped; see %s",
                runbook("sealing-off"),
            )
        if (warning := personal_warning(settings.clear_fields)) and context.log:
            context.log.warning("%s", warning)
        if self._compat and context.log:
            context.log.warning("%s; see %s", self._compat.warning, runbook("compat-masking"))

    @property
    def masking(self) -> str:
        """How values are masked, as LOGINPIPE_MASKING."""
        return self.settings.masking

    @property
    def keys(self) -> TokenKeys:
        """The token keys."""
        return self._token_keys

    @property
    def unknown_fields(self) -> UnknownFields:
        """What becomes of fields that the contract does not know."""
        return UnknownFields(self.settings.clear_fields, keep=self.settings.unknown_fields == "seal")

    @property
    def fate_of_unknown_fields(self) -> str:
        """The same in words."""
        return self.unknown_fields.fate(sealing=bool(self._recipients))

    @property
    def loaded(self) -> Masking:
        """The keys as they were loaded."""
        return Masking(self._token_keys, self._recipients, self._compat, self.unknown_fields, self._placeholders)
