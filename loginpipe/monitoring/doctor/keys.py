"""What `doctor` looks at of the keys: that they can be read, are the right ones, and what they are used for."""

from loginpipe.common.settings import Settings
from loginpipe.masking.keys import load_compat, load_seal_keys, load_token_keys
from loginpipe.monitoring.doctor.warehouse import warehouse
from loginpipe.postgres.table_counts import newest_key_version
from loginpipe.postgres.token_key_checks import require_known_keys


def token_keys(settings: Settings) -> str:
    """Read the token keys, and compare them with those that the database's tokens were made with."""
    uri = settings.required("token_keys")
    keys = load_token_keys(uri, production=settings.production)
    with warehouse(settings) as connection:
        require_known_keys(connection, keys)
        newest = newest_key_version(connection)
    used = "in use" if newest == keys.current else f"not used yet, the newest in use is {newest}" if newest else "new"
    return f"version {keys.current}, {used}" + ("; for development only" if keys.development else "")


def seal_key(settings: Settings) -> str:
    """Read the public seal keys."""
    uri = settings.required("seal_key")
    keys = load_seal_keys(uri, fingerprint=settings.seal_key_fingerprint, production=settings.production)
    if not keys:
        return "off: neither masked values nor rejected bodies can be recovered"
    pinned = "pinned" if settings.seal_key_fingerprint else "not pinned"
    return f"fingerprint {' and '.join(f'{key.fingerprint[:16]}…' for key in keys)}, {pinned}"


def masking(settings: Settings) -> str:
    """Say how values are masked; an older scheme with its warning."""
    compat = load_compat(settings.masking, settings.compat_salt, production=settings.production)
    return f"warning: {compat.warning}" if compat else f"{settings.masking}: tokens"
