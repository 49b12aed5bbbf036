"""The Dagster resource of the keys: masks and seals, and can open nothing."""

import dagster as dg
import pandas as pd
from pydantic import Field, PrivateAttr

from loginpipe.common.runbook import runbook
from loginpipe.common.settings import required
from loginpipe.logins.splitting import SplitBatch
from loginpipe.masking.compat import HMAC, CompatMasking
from loginpipe.masking.keys import load_compat, load_seal_keys, load_token_keys
from loginpipe.masking.mask import MaskedLogins, mask_logins, seal_originals
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import TokenKeys


class MaskingResource(dg.ConfigurableResource["MaskingResource"]):
    """The token keys, and the public keys that recoverable values are sealed for."""

    token_keys: str | None = Field(description="URI of the token keys, as in file:keys/token_keys.json.")
    seal_key: str | None = Field(description="URIs of the public seal keys, or off for tokens only.")
    seal_key_fingerprint: str | None = Field(description="SHA-256 of each public seal key, pinned.")
    masking: str = Field(default=HMAC, description="hmac-sha256 for tokens, or the older scheme to stay joinable with.")
    compat_salt: str | None = Field(default=None, description="URI of the salt of compat-sha256-salted.")
    production: bool = Field(description="Refuse development keys, seal keys not pinned, and AWS without https.")

    _token_keys: TokenKeys = PrivateAttr()
    _recipients: tuple[SealKey, ...] = PrivateAttr()
    _compat: CompatMasking | None = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Load the keys, once for the run; say what is not as it should be in the long run."""
        token_keys = required("token_keys", self.token_keys)
        seal_key = required("seal_key", self.seal_key)
        self._token_keys = load_token_keys(token_keys, production=self.production)
        self._recipients = load_seal_keys(seal_key, fingerprint=self.seal_key_fingerprint, production=self.production)
        self._compat = load_compat(self.masking, self.compat_salt, production=self.production)
        if not self._recipients and context.log:
            context.log.warning(
                "LOGINPIPE_SEAL_KEY is off: neither masked values nor the bodies of rejected messages can be recovered"
                "; see %s",
                runbook("sealing-off"),
            )
        if self._compat and context.log:
            context.log.warning("%s; see %s", self._compat.warning, runbook("compat-masking"))

    @property
    def keys(self) -> TokenKeys:
        """The token keys."""
        return self._token_keys

    @property
    def sealing(self) -> bool:
        """Whether values are sealed at all."""
        return bool(self._recipients)

    @property
    def compat(self) -> CompatMasking | None:
        """The older scheme that is in force instead of tokens, if one is."""
        return self._compat

    def mask(self, validated: pd.DataFrame) -> MaskedLogins:
        """Replace ``ip`` and ``device_id`` by tokens."""
        return mask_logins(validated, self._token_keys, self._compat)

    def seal_originals(self, masked: MaskedLogins, known: frozenset[str]) -> Sealed:
        """Seal what the tokens stand for, leaving out the known ones."""
        return seal_originals(masked.originals, known, self._recipients)

    def seal_bodies(self, split: SplitBatch) -> Sealed:
        """Seal the bodies of rejected messages."""
        if not self._recipients:
            return Sealed()
        bodies = zip(split.rejected["message_id"], split.rejected["body"], strict=True)
        return seal([(i, body.encode("utf-8", "surrogatepass")) for i, body in bodies], "body", self._recipients)
