"""The commands for keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from loginpipe.cli.output import Json, new_app, notes, out, print_json
from loginpipe.cli.warehouse import connect_to_warehouse
from loginpipe.common.settings import Settings, load_settings

app = new_app("The keys for masking and sealing.")

IfMissing = Annotated[bool, typer.Option("--if-missing", help="Create missing files only; keep existing ones.")]
Passphrase = Annotated[
    bool, typer.Option("--passphrase", help="Ask for a passphrase and encrypt the private half with it.")
]


@app.command()
def generate(*, if_missing: IfMissing = False, passphrase: Passphrase = False, as_json: Json = False) -> None:
    """Create the key files that LOGINPIPE_TOKEN_KEYS and LOGINPIPE_SEAL_KEY name. Existing files are never overwritten.

    The command creates the private half of the seal key beside the public half: move it to a place that only custodians
    can read. Create keys for KMS and Secrets Manager in AWS.

    Example: LOGINPIPE_TOKEN_KEYS=file:keys/tokens.json LOGINPIPE_SEAL_KEY=file:keys/seal.pem loginpipe keys generate
    """
    from loginpipe.common.errors import KeyFileError
    from loginpipe.masking.key_files import generate_token_keys
    from loginpipe.masking.keys import FILE, key_file, seal_key_uris, token_key_uri

    settings = load_settings()
    token_keys, seal_keys = settings.required("token_keys"), settings.required("seal_key")
    seal_files = [key_file(str(uri), "LOGINPIPE_SEAL_KEY") for uri in seal_key_uris(seal_keys) if uri.provider == FILE]
    in_file = token_key_uri(token_keys).provider == FILE
    if not in_file and not seal_files:
        raise KeyFileError(
            "neither LOGINPIPE_TOKEN_KEYS nor LOGINPIPE_SEAL_KEY names a file: create keys that are kept in AWS there"
        )
    made: dict[str, Any] = {"token_keys": None, "seal_keys": []}
    # Each as soon as it is made: the next one may fail.
    shown = Console(quiet=True) if as_json else out
    if in_file:
        path = key_file(token_keys, "LOGINPIPE_TOKEN_KEYS")
        if not (if_missing and path.exists()):
            generate_token_keys(path, development=not settings.production)
            made["token_keys"] = str(path)
            shown.print(f"token keys                {path}", markup=False)
    for public in seal_files:
        key = _seal_key(public, if_missing=if_missing, passphrase=passphrase)
        made["seal_keys"].append(key)
        if key["private"]:
            shown.print(f"seal key, public half     {public}", markup=False)
            shown.print(f"seal key, private half    {key['private']}", markup=False)
        shown.print(f"fingerprint to pin        {key['fingerprint']}")
    if as_json:
        print_json(made)


@app.command()
def rotate(*, as_json: Json = False) -> None:
    """Add a version to the token keys. New tokens use it from the next run on; older versions are kept.

    A key file is replaced in one step; a secret gets a new value. For keys in KMS the command prints what to do there.

    Example: loginpipe keys rotate
    """
    from loginpipe.masking.keys import rotate_token_keys

    settings = load_settings()
    keys = rotate_token_keys(settings.required("token_keys"), production=settings.production)
    versions = sorted(keys.field_keys)
    if as_json:
        print_json({"current": keys.current, "versions": versions})
        return
    out.print(f"current version: {keys.current}; all versions: {', '.join(map(str, versions))}")
    notes.print(
        "Every machine that runs the pipeline needs these keys before its next run. Verify with `loginpipe keys "
        "status`."
    )


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show the provider, versions and fingerprints of the keys, and what the database holds of each version.

    Example: loginpipe keys status --json
    """
    from loginpipe.masking.keys import pinned_fingerprints, read_seal_keys, read_token_keys, token_key_uri

    settings = load_settings()
    uri, pinned = settings.required("token_keys"), pinned_fingerprints(settings.seal_key_fingerprint)
    provider, token_keys = token_key_uri(uri).provider, read_token_keys(uri, production=settings.production)
    versions = sorted(token_keys.field_keys)
    seal_keys: list[dict[str, Any]] = []
    for named in read_seal_keys(settings.required("seal_key"), production=settings.production):
        fingerprint = named.key.fingerprint
        place = {"provider": named.uri.provider, "place": named.place}
        seal_keys.append({**place, "fingerprint": fingerprint, "pinned": fingerprint in pinned})
    database = _in_database(settings)
    if as_json:
        of_tokens = {"provider": provider, "versions": versions, "current": token_keys.current}
        of_tokens |= {"development": token_keys.development, **database}
        print_json({"masking": settings.masking, "token_keys": of_tokens, "seal_keys": seal_keys})
        return
    development = ", for development only" if token_keys.development else ""
    out.print(f"masking     {settings.masking}", markup=False)
    out.print(f"token keys  {provider}{development}", markup=False)
    for line in _version_lines(versions, token_keys.current, database):
        out.print(f"            {line}", markup=False)
    for key in seal_keys:
        words = "pinned" if key["pinned"] else "not pinned"
        out.print(f"seal key    {key['place']}: {key['fingerprint']}, {words}", markup=False)
    if not seal_keys:
        out.print("seal key    off: nothing can be recovered")


def _seal_key(public: Path, *, if_missing: bool, passphrase: bool) -> dict[str, str | None]:
    """Make a seal key where it is missing; return its fingerprint and files, the private half where it was made."""
    from loginpipe.masking.key_files import generate_seal_key, private_half, read_seal_key

    private = None
    if not (if_missing and public.exists()):
        words = f"Passphrase for {private_half(public)}"
        secret = typer.prompt(words, hide_input=True, confirmation_prompt=True, err=True) if passphrase else None
        private = str(generate_seal_key(public, secret))
    return {"public": str(public), "private": private, "fingerprint": read_seal_key(public).fingerprint}


def _in_database(settings: Settings) -> dict[str, Any]:
    """Return recorded_versions, and sealed_values by version; None where there is no database or no privilege."""
    from loginpipe.postgres.token_keys import recorded_versions, sealed_by_version

    if settings.database_url is None:
        return {"recorded_versions": None, "sealed_values": None}
    with connect_to_warehouse(settings) as connection:
        sealed = sealed_by_version(connection)
        by_version = None if sealed is None else {str(v or "compat"): count for v, count in sealed.items()}
        return {"recorded_versions": recorded_versions(connection), "sealed_values": by_version}


def _version_lines(versions: list[int], current: int, database: Mapping[str, Any]) -> list[str]:
    recorded, sealed = database["recorded_versions"], database["sealed_values"]
    lines = []
    for version in sorted({*versions, *(recorded or ())}):
        words = ["current"] if version == current else []
        if version not in versions:
            words.append("missing on this machine")
        if recorded is not None:
            words.append("recorded in the database" if version in recorded else "not in the database yet")
        if sealed is not None:
            words.append(f"{sealed.get(str(version), 0):,} values in the vault")
        lines.append(f"version {version}: {', '.join(words) or 'available'}")
    if sealed and "compat" in sealed:
        lines.append(f"no version (older masking): {sealed['compat']:,} values in the vault")
    return lines
