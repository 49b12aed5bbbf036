"""The context values of an installation, typed and validated. README.md explains them.

`environments` reads them from the file of the environment. Values on the command line override the file.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final, TypeVar

from constructs import Node

T = TypeVar("T")

_REGION: Final = r"[a-z]{2}(-[a-z]+)+-\d"
_TAG: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_FINGERPRINTS: Final = r"[0-9a-f]{64}(,[0-9a-f]{64})*"
_HOST: Final = r"[a-z0-9-]+(\.[a-z0-9-]+)+"
_CERTIFICATE: Final = r"arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate/[0-9a-f-]+"
_ARNS: Final = "ARNs of IAM roles or users"
_SECRET: Final = r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:.+-[A-Za-z0-9]{6}"  # noqa: S105 - a name, no secret
_PRINCIPAL: Final = r"arn:aws[a-z-]*:iam::\d{12}:(role|user)/[A-Za-z0-9+=,.@_/-]+"
# An ARN of people may end with *, because Identity Center adds a changing suffix to its roles.
_PERSON: Final = _PRINCIPAL + r"(_\*)?"
_INSTALLATION: Final = r"[a-z][a-z0-9]{1,19}"
_QUEUE: Final = r"(?!login$|loginpipe$)[a-z][a-z0-9]{1,19}"
_CLASS: Final = r"[a-z0-9]+\.[a-z0-9]+"
_TABLE: Final = r"[a-z_][a-z0-9_]{0,62}\.user_logins"
_SHARE: Final = r"0(\.\d{1,6})?|1(\.0+)?"
_HTTPS: Final = r"https://[^\s*?#]+"
_EMAIL: Final = r"[^@\s]+@[^@\s]+"

_FASTER_FROM_GIB: Final = 400
"""From this size on, RDS stripes gp3 over four volumes, and its throughput can be set."""
MOST_RUNS: Final = 8
"""The limit of runs per queue in dagster.yaml."""
# Half a core processes 10,000 messages a second. Three runs with their successors, the services, and a deployment of
# the services then fit into the 6 vCPU of a new account. check-quotas.sh computes this.
_RUN_CPU: Final = 512
# With batches of 10,000 messages a run needs 300 to 350 MB; with messages of 1 MiB two or three times as much.
_RUN_MEMORY_MIB: Final = 2048
_FARGATE_MIB: Final = {
    256: (512, 1024, 2048),
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16_384 + 1, 1024),
    4096: range(8192, 30_720 + 1, 1024),
    8192: range(16_384, 61_440 + 1, 4096),
    16_384: range(32_768, 122_880 + 1, 8192),
}
"""CPU units → the memory sizes that Fargate offers for them."""


PEOPLE: Final = ("custodian", "auditor", "key_administrator")


class ContextError(Exception):
    """A context value is missing or invalid. The message is one line with the name and the rule."""


@dataclass(frozen=True)
class Oidc:
    """The identity provider where people sign in before they see the UI."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    user_info_endpoint: str
    client_id: str
    client_secret_arn: str
    """ARN of a secret that contains only the client secret, as a string."""


@dataclass(frozen=True)
class FurtherQueue:
    """A queue in addition to the login queue, with its own code location and limit, and the same warehouse and keys."""

    name: str
    """Also the name of its code location and the prefix of its assets."""
    sender_arns: tuple[str, ...]
    max_runs: int | None
    """Its LOGINPIPE_MAX_RUNS; None for the value of the login queue."""


@dataclass(frozen=True)
class Foundation:
    """The values of the data stack."""

    region: str
    installation: str
    """The prefix of all names, so that one account can have several installations."""
    people: Mapping[str, tuple[str, ...]]
    """Role for people → the roles and users that may assume it. If there are none, IAM in the account decides."""
    vpc_cidr: str
    sender_arns: tuple[str, ...]
    """Roles and users that send logins to the queue."""
    queues: tuple[FurtherQueue, ...]
    """Queues in addition to the login queue; usually none."""
    image_reader_arns: tuple[str, ...]
    """Roles that copy releases from this installation's repository to their own."""
    database_networks: tuple[str, ...]
    """Private networks from which custodians and analysts reach the database."""
    database_class: str
    database_storage_gib: int
    database_storage_most_gib: int
    database_storage_throughput: int | None
    """MiB per second; None for the default of the storage size."""
    database_connections: int
    read_replica: bool
    token_key_versions: int
    alert_email: str | None
    consumer: str
    """What consumes the queue: ``dagster``, ``lambda`` or ``both``."""


@dataclass(frozen=True)
class Release:
    """The values of the tasks in addition to the data stack: the image and the settings."""

    image_tag: str
    seal_key_fingerprint: str
    settings: Mapping[str, str]
    """Variable → value, for the settings that are given."""
    run_cpu: int
    """CPU units of the task of a run; 1,024 units are one core."""
    run_memory_mib: int


@dataclass(frozen=True)
class Web:
    """The values for access to the UI."""

    domain: str
    certificate_arn: str
    networks: tuple[str, ...]
    """Private networks from which people may reach the UI."""
    oidc: Oidc


def foundation(node: Node) -> Foundation:
    """Read the values of the data stack.

    Raises:
        ContextError: a value is missing or invalid.
    """
    storage = _number(node, "database_storage_gib", 20, 65_536)
    return Foundation(
        region=_text(node, "region", _REGION, "a region, as in eu-central-1"),
        installation=installation(node),
        people={role: _texts(node, f"{role}_principal_arns", _PERSON, _ARNS) for role in PEOPLE},
        vpc_cidr=_network(_required(node, "vpc_cidr", "a private network, as in 10.40.0.0/16"), "vpc_cidr"),
        sender_arns=_texts(node, "sender_arns", _PRINCIPAL, _ARNS),
        queues=further_queues(node),
        image_reader_arns=_texts(node, "image_reader_arns", _PRINCIPAL, _ARNS),
        database_networks=_networks(node, "database_networks"),
        database_class=_text(node, "database_class", _CLASS, "an RDS class without its db., as in m7g.large"),
        database_storage_gib=storage,
        database_storage_most_gib=_number(node, "database_storage_most_gib", storage + 1, 65_536),
        database_storage_throughput=_throughput(node, storage),
        database_connections=_number(node, "database_connections", 50, 5_000),
        read_replica=_flag(node, "read_replica"),
        token_key_versions=_number(node, "token_key_versions", 1, 99),
        alert_email=_optional(node, "alert_email", lambda: _text(node, "alert_email", _EMAIL, "an address")),
        consumer=SETTINGS["consumer"](node, "consumer") or "dagster",
    )


def further_queues(node: Node) -> tuple[FurtherQueue, ...]:
    """Read the queues in addition to the login queue.

    Raises:
        ContextError: a queue is invalid, or two have the same name.
    """
    found = _given(node, "queues") or []
    if not isinstance(found, list) or not all(_is_queue(each) for each in found):
        raise ContextError(
            "context value queues must be a list of objects with a name (2 to 20 small letters and digits, a letter "
            f"first; not login or loginpipe), sender_arns ({_ARNS}), and max_runs from 1 to {MOST_RUNS} or none"
        )
    names = [each["name"] for each in found]
    # The code location of the login queue may have its own prefix.
    if len({*names, _given(node, "asset_prefix")}) <= len(names):
        raise ContextError("context value queues must have names that differ from each other and from asset_prefix")
    return tuple(
        FurtherQueue(
            name=each["name"],
            sender_arns=tuple(each.get("sender_arns") or []),
            max_runs=int(each["max_runs"]) if each.get("max_runs") else None,
        )
        for each in found
    )


def _is_queue(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"name", "sender_arns", "max_runs"}:
        return False
    name, arns, runs = value.get("name"), value.get("sender_arns") or [], value.get("max_runs") or 1
    return (
        isinstance(name, str)
        and re.fullmatch(_QUEUE, name) is not None
        and isinstance(arns, list)
        and all(isinstance(arn, str) and re.fullmatch(_PRINCIPAL, arn) for arn in arns)
        and runs in range(1, MOST_RUNS + 1)
    )


def release(node: Node) -> Release:
    """Read the values of the tasks.

    Raises:
        ContextError: a value is missing or invalid.
    """
    cpu, memory_mib = size_of_runs(node)
    return Release(
        image_tag=_text(node, "image_tag", _TAG, "the tag of the image that was pushed"),
        seal_key_fingerprint=_text(
            node, "seal_key_fingerprint", _FINGERPRINTS, "64 hex digits: README.md says how to read it"
        ),
        settings={
            f"LOGINPIPE_{name.upper()}": value
            for name, read in SETTINGS.items()
            if (value := read(node, name)) is not None
        },
        run_cpu=cpu,
        run_memory_mib=memory_mib,
    )


def installation(node: Node) -> str:
    """Return the prefix of all names in an installation.

    Raises:
        ContextError: it is invalid.
    """
    meaning = "2 to 20 small letters and digits, a letter first"
    return _optional(node, "installation", lambda: _text(node, "installation", _INSTALLATION, meaning)) or "loginpipe"


def web(node: Node) -> Web:
    """Read the values for access to the UI.

    Raises:
        ContextError: a value is missing or invalid.
    """
    networks = _networks(node, "web_networks")
    if not networks:
        raise ContextError("context value web_networks is empty: list the private networks whose people open the UI")
    return Web(
        domain=_text(node, "web_domain", _HOST, "the UI's host name, as in logins.example.com"),
        certificate_arn=_text(node, "certificate_arn", _CERTIFICATE, "the ARN of its certificate in ACM"),
        networks=networks,
        oidc=Oidc(
            issuer=_text(node, "oidc_issuer", _HTTPS, "the provider's URL, https://…"),
            authorization_endpoint=_text(node, "oidc_authorization_endpoint", _HTTPS, "a URL, https://…"),
            token_endpoint=_text(node, "oidc_token_endpoint", _HTTPS, "a URL, https://…"),
            user_info_endpoint=_text(node, "oidc_user_info_endpoint", _HTTPS, "a URL, https://…"),
            client_id=_text(node, "oidc_client_id", r"\S+", "the id of the client"),
            client_secret_arn=_text(node, "oidc_client_secret_arn", _SECRET, "the full ARN of its secret"),
        ),
    )


def _given(node: Node, name: str) -> Any:
    """Return a value, or None if it is missing or empty."""
    if name not in NAMES:
        raise LookupError(f"{name} is not among the names of context values")
    value = node.try_get_context(name)
    return None if value == "" else value


def _required(node: Node, name: str, meaning: str) -> Any:
    value = _given(node, name)
    if value is None:
        file = f"environments/{node.try_get_context('environment')}.json"
        raise ContextError(f"context value {name} is not set: set it in {file} to {meaning}")
    return value


def _optional(node: Node, name: str, read: Callable[[], T]) -> T | None:
    return None if _given(node, name) is None else read()


def _text(node: Node, name: str, pattern: str, meaning: str) -> str:
    value = _required(node, name, meaning)
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ContextError(f"context value {name} must be {meaning}")
    return value


def _items(node: Node, name: str) -> Sequence[Any]:
    """Return a list from the file, or from the command line, where commas separate the items."""
    value = _given(node, name) or []
    return value.split(",") if isinstance(value, str) else value


def _texts(node: Node, name: str, pattern: str, meaning: str) -> tuple[str, ...]:
    values = _items(node, name)
    if not all(isinstance(value, str) and re.fullmatch(pattern, value) for value in values):
        raise ContextError(f"context value {name} must be a list of {meaning}")
    return tuple(values)


def _network(value: Any, name: str) -> str:
    try:
        network = ip_network(value)
    except (ValueError, TypeError):
        raise ContextError(f"context value {name} must be private networks, as in 10.0.0.0/16") from None
    if not network.is_private or network.version != 4:  # noqa: PLR2004
        raise ContextError(f"context value {name} must be private IPv4 networks: nothing here is for the internet")
    return str(network)


def _networks(node: Node, name: str) -> tuple[str, ...]:
    return tuple(_network(value, name) for value in _items(node, name))


def _number(node: Node, name: str, least: int, most: int) -> int:
    meaning = f"a whole number from {least} to {most}"
    value = _required(node, name, meaning)
    # The CDK passes numbers as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,6}", str(value)) or not least <= int(value) <= most:
        raise ContextError(f"context value {name} must be {meaning}")
    return int(value)


def _number_if_given(node: Node, name: str, least: int, most: int) -> int | None:
    return _optional(node, name, lambda: _number(node, name, least, most))


def _throughput(node: Node, storage_gib: int) -> int | None:
    name = "database_storage_throughput"
    found = _number_if_given(node, name, 500, 4_000)
    if found is not None and storage_gib < _FASTER_FROM_GIB:
        raise ContextError(
            f"context value {name} takes database_storage_gib of {_FASTER_FROM_GIB} or more: raise that, or leave "
            f"{name} empty"
        )
    return found


def size_of_runs(node: Node) -> tuple[int, int]:
    """Return the CPU units and MiB of the task of a run.

    Raises:
        ContextError: a value is invalid, or Fargate does not offer the combination.
    """
    cpu = _number_if_given(node, "run_cpu", min(_FARGATE_MIB), max(_FARGATE_MIB)) or _RUN_CPU
    if cpu not in _FARGATE_MIB:
        raise ContextError(f"context value run_cpu must be one of {', '.join(map(str, _FARGATE_MIB))}")
    memory = _number_if_given(node, "run_memory_mib", 512, 122_880) or _RUN_MEMORY_MIB
    sizes = _FARGATE_MIB[cpu]
    if memory not in sizes:
        raise ContextError(
            f"context value run_memory_mib must be {sizes[0]} to {sizes[-1]} with run_cpu {cpu}, in steps of "
            f"{sizes[1] - sizes[0]}"
        )
    return cpu, memory


def _flag(node: Node, name: str) -> bool:
    value = _required(node, name, "true or false")
    known = {True: True, False: False, "true": True, "false": False}
    if value not in known:
        raise ContextError(f"context value {name} must be true or false")
    return known[value]


def _whole(least: int, most: int) -> Callable[[Node, str], str | None]:
    def read(node: Node, name: str) -> str | None:
        number = _number_if_given(node, name, least, most)
        return None if number is None else str(number)

    return read


def _one_of(*choices: str) -> Callable[[Node, str], str | None]:
    return _matching("|".join(map(re.escape, choices)), f"one of {', '.join(choices)}")


def _matching(pattern: str, meaning: str, prefix: str = "") -> Callable[[Node, str], str | None]:
    return lambda node, name: _optional(node, name, lambda: prefix + _text(node, name, pattern, meaning))


def _share(node: Node, name: str) -> str | None:
    # The CDK passes numbers as floats.
    value = _given(node, name)
    if value is not None and (
        isinstance(value, bool) or not re.fullmatch(_SHARE, f"{value:g}" if isinstance(value, float) else str(value))
    ):
        raise ContextError(f"context value {name} must be a share from 0 to 1, as in 0.05")
    return None if value is None else f"{float(value):g}"


def _listed(node: Node, name: str) -> str | None:
    """Return a list in the format of the setting, with commas."""
    return ",".join(_texts(node, name, r"[^,\s]([^,]*[^,\s])?", "texts without commas")) or None


SETTINGS: Final[Mapping[str, Callable[[Node, str], str | None]]] = {
    "consumer": _one_of("dagster", "lambda", "both"),
    "envelope": _one_of("none", "sns", "eventbridge"),
    "table": _matching(_TABLE, "SCHEMA.user_logins, as in analytics.user_logins"),
    "masking": _one_of("hmac-sha256", "compat-sha256", "compat-sha256-salted", "compat-sha256-base64", "compat-md5"),
    "compat_salt": _matching(_SECRET, "the full ARN of a secret", "secretsmanager:"),
    "unknown_fields": _one_of("seal", "drop"),
    "extra_fields": _listed,
    "placeholders": _listed,
    "batch_messages": _whole(1, 120_000),
    "linger_seconds": _whole(0, 60),
    "run_seconds": _whole(60, 43_200),
    "visibility_seconds": _whole(3, 43_200),
    "sqs_client": _one_of("lean", "boto3"),
    "database_auth": _one_of("password", "rds-iam"),
    "asset_prefix": _matching(r"[A-Za-z0-9_]+", "letters, digits and underscores"),
    "first_day": _matching(r"\d{4}-\d\d-\d\d", "a day, as in 2026-11-29"),
    "receivers": _whole(1, 64),
    "max_runs": _whole(1, MOST_RUNS),
    "max_reject_rate": _share,
    "brake": _one_of("on", "off"),
    "max_delay_seconds": _whole(1, 3_600),
    "runbook_url": _matching(_HTTPS, "a URL, https://…"),
    "log_level": _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    "retention_days": _whole(1, 100_000),
    "keep_runs_days": _whole(1, 100_000),
}
"""Setting → how to read its value. The stacks set the others: queue, database, keys, archive, topic."""

NAMES: Final = frozenset(
    {
        "region", "installation", "vpc_cidr", "sender_arns", "queues", "image_reader_arns", "alert_email",
        "database_networks",
        *(f"{role}_principal_arns" for role in PEOPLE),
        "database_class", "database_storage_gib", "database_storage_most_gib", "database_storage_throughput",
        "database_connections", "read_replica", "token_key_versions",
        "image_tag", "seal_key_fingerprint", "run_cpu", "run_memory_mib", *SETTINGS,
        "web_domain", "certificate_arn", "web_networks", "oidc_issuer", "oidc_authorization_endpoint",
        "oidc_token_endpoint", "oidc_user_info_endpoint", "oidc_client_id", "oidc_client_secret_arn",
    }
)  # fmt: skip
"""The names of all context values."""
