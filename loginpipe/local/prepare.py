"""Prepare a new local stack for the pipeline: keys, schema and queue."""

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loginpipe.local.environment import environment
from loginpipe.local.stack import LocalStack
from loginpipe.masking.key_files import generate_seal_key, generate_token_keys
from loginpipe.masking.keys import key_file
from loginpipe.postgres.connections import connect
from loginpipe.postgres.days import first_day
from loginpipe.postgres.migrate import migrate
from loginpipe.sqs.client import queue_errors

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

_DEAD_LETTER_RETENTION_SECONDS = 14 * 86_400
_VISIBILITY_SECONDS = 30
_MAX_RECEIVES = 5


def prepare(stack: LocalStack) -> dict[str, str]:
    """Create missing development keys, schema and queue. Existing ones stay unchanged.

    Returns:
        The environment for every command of loginpipe and Dagster on this stack.

    Raises:
        LoginpipeError: one of them cannot be created.
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

    Raises:
        QueueError: the endpoint is unreachable or refuses access.
    """
    with queue_errors(name):
        dead_letters = _made(client, f"{name}-dlq", {"MessageRetentionPeriod": str(_DEAD_LETTER_RETENTION_SECONDS)})
        attributes = client.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]
        redrive = f'{{"deadLetterTargetArn": "{attributes["QueueArn"]}", "maxReceiveCount": "{_MAX_RECEIVES}"}}'
        return _made(client, name, {"VisibilityTimeout": str(_VISIBILITY_SECONDS), "RedrivePolicy": redrive})


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
