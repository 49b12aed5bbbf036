"""Load what a run or a Lambda function masks and seals with, from the settings."""

from loginpipe.common.errors import runbook
from loginpipe.common.settings import Settings
from loginpipe.ingest.process import Masking
from loginpipe.logins.extras import UnknownFields, personal_warning
from loginpipe.masking.keys import load_compat, load_seal_keys, load_token_keys
from loginpipe.masking.tokens import placeholder_tokens


def load_masking(settings: Settings) -> Masking:
    """Load the keys, load the older scheme if it is in force, and make the tokens of the placeholders.

    Raises `SettingError` if a key setting is missing, and `KeyFileError` if a key cannot be used.
    """
    production, pinned = settings.production, settings.seal_key_fingerprint
    token_keys, seal_key = settings.required("token_keys"), settings.required("seal_key")
    keys = load_token_keys(token_keys, production=production)
    recipients = load_seal_keys(seal_key, fingerprint=pinned, production=production)
    compat = load_compat(settings.masking, settings.compat_salt, production=production)
    unknown = UnknownFields(settings.clear_fields, keep=settings.unknown_fields == "seal")
    return Masking(keys, recipients, compat, unknown, placeholder_tokens(settings.further_placeholders, keys, compat))


def masking_warnings(masking: Masking) -> list[str]:
    """Return the warnings to log at every start, about settings that are not meant to stay."""
    found = []
    if not masking.recipients:
        found.append(
            "LOGINPIPE_SEAL_KEY is off: neither masked values nor the bodies of rejected messages can be recovered"
            f", and unknown fields of logins are dropped; see {runbook('sealing-off')}"
        )
    if warning := personal_warning(masking.unknown_fields.clear):
        found.append(warning)
    if masking.compat:
        found.append(f"{masking.compat.warning}; see {runbook('compat-masking')}")
    return found
