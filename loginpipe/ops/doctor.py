"""Is everything in place for a run? Each check says what it looked at, and where it is not well, the mend."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from loginpipe.errors import LoginpipeError
from loginpipe.masking.keys import load_seal_keys, load_token_keys
from loginpipe.postgres.connections import connect, require_verified_tls, transaction
from loginpipe.postgres.contract import contract_differences, user_logins_columns
from loginpipe.postgres.grant_plan import WRITER
from loginpipe.postgres.grants import grant_differences, standing
from loginpipe.postgres.migrate import HEAD, require_migrated
from loginpipe.postgres.token_key_checks import require_known_keys
from loginpipe.settings import Settings, required
from loginpipe.sqs.client import Queue, open_queue, queue_errors
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe.sqs.depth import STALL, read_depth

_RECEIVES_LEAST: Final = 3
"""Below that, two failed runs in a row send good messages to the dead-letter queue."""


@dataclass(frozen=True)
class Finding:
    """What a check found: well or not, and in words."""

    what: str
    well: bool
    says: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield a finding a check, in the order in which a run would come upon them."""
    checks: dict[str, Callable[[Settings], str]] = {
        "queue": _queue,
        "dead-letter queue": _dead_letters,
        "database": _database,
        "grants": _grants,
        "token keys": _token_keys,
        "seal key": _seal_key,
        "Dagster's storage": _dagster_storage,
    }
    for what, check in checks.items():
        try:
            yield Finding(what, True, check(settings))
        except LoginpipeError as error:
            yield Finding(what, False, str(error))


def _queue(settings: Settings) -> str:
    queue = open_queue(settings.queue, connections=1)
    depth = read_depth(queue)
    if depth.stalled:
        raise LoginpipeError(f"queue {queue.name!r}: {depth}; {STALL}")
    return f"{queue.name!r}: {depth}"


def _dead_letters(settings: Settings) -> str:
    queue = open_queue(settings.queue, connections=1)
    policy = redrive_policy(queue)
    if policy is None:
        raise LoginpipeError(f"queue {queue.name!r} has none: give it a redrive policy with maxReceiveCount 5")
    if policy.max_receives < _RECEIVES_LEAST:
        raise LoginpipeError(
            f"maxReceiveCount of queue {queue.name!r} is {policy.max_receives}: make it {_RECEIVES_LEAST} or more, "
            "since every failed run counts as a receive"
        )
    if _retention(policy.dead_letters) <= _retention(queue):
        raise LoginpipeError(
            f"queue {policy.dead_letters.name!r} keeps messages no longer than {queue.name!r} does: make its "
            "MessageRetentionPeriod longer, since a message keeps its age when it moves"
        )
    depth = read_depth(policy.dead_letters)
    if depth.total:
        raise LoginpipeError(
            f"{policy.dead_letters.name!r} holds messages: {depth}; find the cause, then `loginpipe dlq redrive`"
        )
    return f"{policy.dead_letters.name!r}: empty; messages come after {policy.max_receives} receives"


def _retention(queue: Queue) -> int:
    with queue_errors(queue.name):
        attributes = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["MessageRetentionPeriod"])
        return int(attributes["Attributes"]["MessageRetentionPeriod"])


def _database(settings: Settings) -> str:
    url = required("database_url", settings.database_url, "postgresql://user@host/database")
    if settings.production:
        require_verified_tls(url)
    with closing(connect(url)) as connection:
        require_migrated(connection)
        with transaction(connection):
            differences = contract_differences(user_logins_columns(connection))
    if differences:
        raise LoginpipeError(f"user_logins is not the contract: {'; '.join(differences)}")
    return f"migrated to {HEAD}, user_logins is the contract"


def _grants(settings: Settings) -> str:
    url = required("database_url", settings.database_url, "postgresql://user@host/database")
    with closing(connect(url)) as connection:
        require_migrated(connection)
        differences = grant_differences(connection)
        role = standing(connection)
    if differences:
        raise LoginpipeError("; ".join(differences))
    if not role.writes:
        raise LoginpipeError(
            f"{role.role} may not load: run `GRANT {WRITER} TO {role.role}`, or connect as another role"
        )
    if not role.beyond:
        return f"as they should be; {role.role} may do what the pipeline needs, and no more"
    beyond = f"{role.role} {' and '.join(role.beyond)}, more than the pipeline needs"
    if settings.production:
        raise LoginpipeError(f"{beyond}: let it connect as a role of its own, made with `{role.mend}`")
    return f"as they should be; {beyond}"


def _token_keys(settings: Settings) -> str:
    uri = required("token_keys", settings.token_keys, "the URI of the token keys, as in file:keys/token_keys.json")
    keys = load_token_keys(uri, production=settings.production)
    url = required("database_url", settings.database_url, "postgresql://user@host/database")
    with closing(connect(url)) as connection:
        require_known_keys(connection, keys)
    return f"version {keys.current}" + (", for development only" if keys.development else "")


def _seal_key(settings: Settings) -> str:
    uri = required("seal_key", settings.seal_key, "the URI of the public seal key, as in file:keys/seal.pem, or off")
    keys = load_seal_keys(uri, fingerprint=settings.seal_key_fingerprint, production=settings.production)
    if not keys:
        return "off: neither masked values nor rejected bodies can be recovered"
    pinned = "pinned" if settings.seal_key_fingerprint else "not pinned"
    return f"fingerprint {' and '.join(f'{key.fingerprint[:16]}…' for key in keys)}, {pinned}"


def _dagster_storage(_: Settings) -> str:
    url = os.environ.get("DAGSTER_POSTGRES_URL", "")
    if not url.startswith("postgresql+psycopg2://"):
        raise LoginpipeError("DAGSTER_POSTGRES_URL is not set to a URL that begins with postgresql+psycopg2://")
    with closing(connect(url.replace("+psycopg2", "", 1))):
        return "reachable"
