"""The commands for keys."""

from typing import Annotated

import typer

from loginpipe.cli.output import new_app, out
from loginpipe.settings import load_settings, required

app = new_app("The keys that values are masked and sealed with.")


@app.command()
def generate(
    *, if_missing: Annotated[bool, typer.Option("--if-missing", help="Leave files that exist as they are.")] = False
) -> None:
    """Create the files that LOGINPIPE_TOKEN_KEYS and LOGINPIPE_SEAL_KEY name. Nothing is ever overwritten.

    The private half of the seal key is made beside the public one: move it to where only custodians can read it.

    Example: LOGINPIPE_TOKEN_KEYS=file:keys/tokens.json LOGINPIPE_SEAL_KEY=file:keys/seal.pem loginpipe keys generate
    """
    from loginpipe.masking.key_files import generate_seal_key, generate_token_keys, read_seal_key
    from loginpipe.masking.keys import SEAL_OFF, key_file

    settings = load_settings()
    token_keys = key_file(
        required("token_keys", settings.token_keys, "a file: URI, as in file:keys/token_keys.json"),
        "LOGINPIPE_TOKEN_KEYS",
    )
    seal_key = required("seal_key", settings.seal_key, "a file: URI, as in file:keys/seal_public.pem, or off")
    if not (if_missing and token_keys.exists()):
        generate_token_keys(token_keys, development=not settings.production)
        out.print(f"token keys                {token_keys}")
    if seal_key == SEAL_OFF:
        return
    public = key_file(seal_key, "LOGINPIPE_SEAL_KEY")
    if not (if_missing and public.exists()):
        private = generate_seal_key(public)
        out.print(f"seal key, public half     {public}\nseal key, private half    {private}")
    out.print(f"fingerprint to pin        {read_seal_key(public).fingerprint}")
