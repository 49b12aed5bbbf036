"""Prepare a local stack for the pipeline: keys, schema, queue, and the ``.env`` file that ``dagster`` commands read."""

import re
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from loginpipe.common.errors import LocalStackError
from loginpipe.common.logins_table import DEFAULT_TABLE
from loginpipe.local.stack import LocalStack
from loginpipe.masking.key_files import generate_seal_key, generate_token_keys
from loginpipe.masking.keys import key_file
from loginpipe.masking.private_files import replace_private_file
from loginpipe.postgres.connections import connect
from loginpipe.postgres.days import first_day
from loginpipe.postgres.migrate import migrate
from loginpipe.sqs.client import queue_errors

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType


QUEUE = "login-queue"

_BEGIN = "# >>> loginpipe local: written by `loginpipe local up`, which replaces everything down to the end mark"
_END = "# <<< loginpipe local"
_BLOCK = re.compile(rf"^# >>> loginpipe local\b.*?^{re.escape(_END)}[^\n]*\n?", re.DOTALL | re.MULTILINE)
# Characters with a special meaning in "${NAME:-…}" for a shell or for python-dotenv.
_NOT_FOR_QUOTES = re.compile(r"[\n\r\0$`}]")


def environment(stack: LocalStack, folder: Path) -> dict[str, str]:
    """Return the variables that make loginpipe and Dagster use a stack. `folder` contains ``keys/``."""
    folder = folder.resolve()
    return {
        **stack.aws_environment,
        "LOGINPIPE_ENV": "local",
        "LOGINPIPE_QUEUE": QUEUE,
        "LOGINPIPE_DATABASE_URL": stack.database_url,
        "LOGINPIPE_TABLE": DEFAULT_TABLE,
        "LOGINPIPE_TOKEN_KEYS": f"file:{folder}/keys/token_keys.json",
        "LOGINPIPE_SEAL_KEY": f"file:{folder}/keys/seal_public.pem",
        "DAGSTER_POSTGRES_URL": stack.dagster_postgres_url,
    }


def write_env_file(path: Path, values: Mapping[str, str]) -> list[str]:
    """Write variables to the end of a ``.env`` file, between two comment lines that mark them as ours.

    Each line is ``NAME="${NAME:-value}"``, so a variable of the environment keeps its value, both in Dagster commands,
    which override the environment with the file, and in a shell with ``. ./.env``.

    The user's lines outside the marks stay unchanged. If they give a variable a value, ours is left out, and its name
    is returned for a message. If they leave it empty, as in a copy of ``.env.example``, ours comes later and counts.

    The file is replaced in one step and has mode 0600, because it may hold the user's credentials. A symbolic link is
    followed. Return the names that the user's own lines keep at another value.
    """
    path = path.resolve()
    users = _BLOCK.sub("", path.read_bytes().decode() if path.exists() else "")
    lines_of_user = dotenv_values(stream=StringIO(users))
    set_by_user = {name: value for name, value in lines_of_user.items() if value}
    ours = {name: _quoted(name, value) for name, value in values.items() if name not in set_by_user}
    # The plain form after an empty assignment above, which hides the environment's value anyway, and for an apostrophe,
    # which bash takes for the start of a quotation within "${…}".
    assignments = [
        f'{name}="{value}"' if name in lines_of_user or "'" in value else f'{name}="${{{name}:-{value}}}"'
        for name, value in ours.items()
    ]
    lines = [_BEGIN, *assignments, _END, ""]
    separator = "\n" if users and not users.endswith("\n") else ""
    path.touch(mode=0o600)
    replace_private_file(path, (users + separator + "\n".join(lines)).encode())
    return [name for name, value in values.items() if set_by_user.get(name, value) != value]


def dagster_home(project: Path) -> Path:
    """Return the folder with ``dagster.yaml``, which Dagster calls its home. It is the project's folder."""
    if not (project / "dagster.yaml").is_file():
        raise LocalStackError(f"{project.resolve()} has no dagster.yaml: run the command in the project's folder")
    return project.resolve()


def _quoted(name: str, value: str) -> str:
    if _NOT_FOR_QUOTES.search(value):
        raise LocalStackError(f"{name} cannot be written to a .env file: choose a folder with a plain name")
    return value.replace("\\", "\\\\").replace('"', '\\"')


def prepare(stack: LocalStack) -> dict[str, str]:
    """Create missing development keys, schema and queue. Existing ones stay unchanged.

    Return the environment for every command of loginpipe and Dagster on this stack.
    """
    variables = environment(stack, stack.folder)
    token_keys = key_file(variables["LOGINPIPE_TOKEN_KEYS"], "LOGINPIPE_TOKEN_KEYS")
    seal_public = key_file(variables["LOGINPIPE_SEAL_KEY"], "LOGINPIPE_SEAL_KEY")
    if not token_keys.exists():
        generate_token_keys(token_keys, development=True)
    if not seal_public.exists():
        generate_seal_key(seal_public)
    migrate(stack.database_url)
    create_login_queue(sqs_client(stack), variables["LOGINPIPE_QUEUE"])
    with closing(connect(stack.database_url)) as connection:
        first = first_day(connection) or datetime.now(UTC).date()
    return {**variables, "LOGINPIPE_FIRST_DAY": first.isoformat()}


def dagster_storage_is_empty(stack: LocalStack) -> bool:
    """Return True if Dagster has not used its database yet."""
    url = stack.dagster_postgres_url.replace("+psycopg2", "", 1)
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('kvs') IS NULL")
        return cursor.fetchone() == (True,)


def create_login_queue(client: "SQSClient", name: str) -> str:
    """Create a queue and its dead-letter queue ``<name>-dlq`` if missing, and return the queue's URL.

    A message moves to the dead-letter queue after five receives, and stays 14 days. Existing queues stay unchanged.
    """
    with queue_errors(name):
        dead_letters = _made(client, f"{name}-dlq", {"MessageRetentionPeriod": str(14 * 86_400)})
        attributes = client.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]
        redrive = f'{{"deadLetterTargetArn": "{attributes["QueueArn"]}", "maxReceiveCount": "5"}}'
        return _made(client, name, {"VisibilityTimeout": "30", "RedrivePolicy": redrive})


def sqs_client(stack: LocalStack) -> "SQSClient":
    """Return a client of the stack's endpoint, independent of the environment."""
    import boto3

    aws = stack.aws_environment
    return boto3.client(
        "sqs",
        endpoint_url=stack.endpoint_url,
        region_name=aws["AWS_REGION"],
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
    )


def _made(client: "SQSClient", name: str, attributes: "dict[QueueAttributeNameType, str]") -> str:
    try:
        return client.get_queue_url(QueueName=name)["QueueUrl"]
    except client.exceptions.QueueDoesNotExist:
        return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
