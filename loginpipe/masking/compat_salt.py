"""The masking that ``LOGINPIPE_MASKING`` names, with the salt that the salted scheme needs."""

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.aws_clients import secrets_manager_client
from loginpipe.masking.compat import HMAC, SALTED, CompatMasking
from loginpipe.masking.key_files import read_salt
from loginpipe.masking.key_uris import FILE, SECRETS_MANAGER, key_path, key_uri
from loginpipe.masking.secret_keys import read_secret_salt

COMPAT_SALT = "LOGINPIPE_COMPAT_SALT"


def load_compat(name: str, salt: str | None, *, production: bool) -> CompatMasking | None:
    """Return the older scheme to mask with, or None for tokens.

    Args:
        name: the value of ``LOGINPIPE_MASKING``.
        salt: the value of ``LOGINPIPE_COMPAT_SALT``, which the salted scheme alone needs.
        production: refuse AWS endpoints without https.

    Raises:
        KeyFileError: no salt where one is needed; unknown scheme; absent, empty, refused or readable by others.
    """
    if name == HMAC:
        return None
    return CompatMasking(name, _salt(salt, production=production) if name == SALTED else b"")


def _salt(uri: str | None, *, production: bool) -> bytes:
    if uri is None:
        raise KeyFileError(
            f"{COMPAT_SALT} is not set, and {SALTED} needs it: set it to the URI of the salt, as in file:keys/salt"
        )
    source = key_uri(uri, COMPAT_SALT, (FILE, SECRETS_MANAGER))
    if source.provider == FILE:
        salt = read_salt(key_path(source, COMPAT_SALT))
    else:
        salt = read_secret_salt(secrets_manager_client(production=production), source.name)
    if not salt:
        raise KeyFileError(f"{COMPAT_SALT} names an empty salt: restore the one that the table's values were made with")
    return salt
