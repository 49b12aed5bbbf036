"""The client on the real endpoint: the message of each error, what is retried, and the queue's depth."""

import os

import boto3
import pytest

from loginpipe.common.errors import QueueError
from loginpipe.common.settings import load_settings
from loginpipe.sqs.client import Queue, batched, open_queue, read_depth
from loginpipe_tests.wire import PLAIN_WEB_SERVER, Answer, Wire, answers, first, refusal

pytestmark = pytest.mark.usefixtures("either_client")


@pytest.fixture(autouse=True)
def _boto3_remembers_nothing(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make boto3 load credentials again, because its default session keeps those of the fixture."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def refused(name_or_url: str) -> str:
    """Try to open a queue; return the one line of the failure, and check that boto3's error is not attached to it."""
    with pytest.raises(QueueError) as caught:
        open_queue(name_or_url, load_settings(), connections=1)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "\n" not in str(caught.value)
    return str(caught.value)


def arn_of(queue: Queue) -> str:
    attributes = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])
    return attributes["Attributes"]["QueueArn"]


@pytest.mark.parametrize("by", ["name", "url", "arn"])
def test_a_queue_is_found_by_name_by_url_and_by_arn(queue: Queue, by: str) -> None:
    named = arn_of(queue) if by == "arn" else getattr(queue, by)
    opened = open_queue(named, load_settings(), connections=1)
    assert (opened.name, opened.url) == (queue.name, queue.url)


def test_region_and_account_of_an_arn_go_before_the_environment_s(
    queue: Queue, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    opened = open_queue(arn_of(queue), load_settings(), connections=1)
    assert opened.client.meta.region_name == "us-east-1"
    account = arn_of(queue).split(":")[4]
    assert wire.asked("GetQueueUrl") == [{"QueueName": queue.name, "QueueOwnerAWSAccountId": account}]


def test_an_arn_of_another_account_is_not_taken_for_the_queue_of_that_name(queue: Queue) -> None:
    another = arn_of(queue).replace(":000000000000:", ":123456789012:")
    assert another != arn_of(queue)
    assert queue.name in refused(another)


def test_a_queue_of_another_arn_than_the_one_that_is_set_is_refused(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some endpoints give the queue of that name for any account."""
    another = arn_of(queue).replace(":000000000000:", ":123456789012:")
    monkeypatch.setattr("loginpipe.sqs.client.region_and_account", lambda _: (os.environ["AWS_REGION"], "000000000000"))
    with pytest.raises(
        QueueError, match=f"ARN in LOGINPIPE_QUEUE is not at this endpoint, which has {arn_of(queue)}: "
    ):
        open_queue(another, load_settings(), connections=1)


@pytest.mark.parametrize("region", ["eu-central-1 ", "EU Frankfurt", "eu-central-1\n", "eu_central_1"])
@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_a_malformed_region_is_called_that(
    queue: Queue, region: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, region)
    assert refused(queue.name) == (
        f"queue '{queue.name}': {variable} is not the name of a region: set it to one like eu-central-1, without spaces"
    )


@pytest.mark.parametrize("other", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_may_be_given_by_either_variable(queue: Queue, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    monkeypatch.delenv(other)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    assert open_queue(queue.name, load_settings(), connections=1).client.meta.region_name == "us-east-1"


@pytest.mark.parametrize("form", ["no-such-queue", "http://localhost/000000000000/no-such-queue"], ids=["name", "url"])
def test_a_queue_that_does_not_exist_is_named(queue: Queue, form: str) -> None:
    assert refused(form) == (
        "queue 'no-such-queue' does not exist in this account and region: create it, or set LOGINPIPE_QUEUE or "
        "AWS_REGION"
    )


def test_without_a_region_the_variable_is_named(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    assert refused(queue.name) == f"queue '{queue.name}': no AWS region is set: set AWS_REGION"


def test_without_credentials_the_ways_to_give_them_are_named(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    assert refused(queue.name) == (
        f"queue '{queue.name}': no AWS credentials were found: give the task a role, or set AWS_PROFILE"
    )


def test_half_of_the_credentials_is_told_from_none(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    assert refused(queue.name) == (
        f"queue '{queue.name}': the AWS credentials are incomplete: set AWS_SECRET_ACCESS_KEY too"
    )


def test_an_unknown_profile_is_named(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert refused(queue.name) == f"queue '{queue.name}': the profile in AWS_PROFILE does not exist: fix its name"


def test_an_endpoint_that_is_no_url_is_named(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:4566")
    assert refused(queue.name) == (
        f"queue '{queue.name}': AWS_ENDPOINT_URL is not a URL: set it to https://host:port, or unset it"
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("AccessDenied", "may not be used with these credentials (AccessDenied): grant what docs/aws.md lists"),
        ("ExpiredToken", "cannot be used: AWS refuses the credentials (ExpiredToken): renew them"),
        ("InvalidClientTokenId", "cannot be used: AWS refuses the credentials (InvalidClientTokenId): renew them"),
        (
            "RequestExpired",
            "cannot be used: AWS refuses the time of the request (RequestExpired): set this machine's clock with NTP",
        ),
        ("RequestThrottled", "is throttled by AWS (RequestThrottled): try again later"),
        ("OverLimit", "cannot be used: AWS answered OverLimit"),
    ],
)
def test_refusals_of_aws_are_told_apart(queue: Queue, wire: Wire, code: str, said: str) -> None:
    wire.on("GetQueueUrl", answers(refusal(code, 403)))
    assert refused(queue.name) == f"queue '{queue.name}' {said}"


@pytest.mark.parametrize(
    "passing", [refusal("RequestThrottled", 403), refusal("ServiceUnavailable", 503)], ids=["throttled", "unavailable"]
)
def test_what_passes_by_itself_is_tried_again(queue: Queue, wire: Wire, passing: Answer) -> None:
    wire.on("GetQueueUrl", first(1, answers(passing)))
    assert open_queue(queue.name, load_settings(), connections=1).url == queue.url
    assert len(wire.asked("GetQueueUrl")) == 2


def test_the_depth_counts_messages_by_their_state(queue: Queue) -> None:
    for number in range(6):
        queue.client.send_message(QueueUrl=queue.url, MessageBody=str(number), DelaySeconds=60 if number == 5 else 0)
    queue.client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=2)
    depth = read_depth(queue)
    assert (depth.visible, depth.in_flight, depth.delayed) == (3, 2, 1)
    assert str(depth) == "3 waiting, 2 in flight, 1 delayed"


def test_the_depth_of_a_queue_that_went_away_is_an_error_that_names_it(queue: Queue) -> None:
    gone = Queue("gone", queue.url + "-gone", queue.client)
    with pytest.raises(QueueError, match=r"^queue 'gone' does not exist"):
        read_depth(gone)


def test_an_endpoint_that_turned_into_a_web_server_has_no_depth(queue: Queue, wire: Wire) -> None:
    opened = open_queue(queue.name, load_settings(), connections=1)
    wire.on("*", answers(PLAIN_WEB_SERVER))
    with pytest.raises(QueueError, match="does not answer in today's SQS protocol"):
        read_depth(opened)


def test_items_are_cut_into_lists_of_ten() -> None:
    assert [len(chunk) for chunk in batched(range(21))] == [10, 10, 1]
    assert list(batched([])) == []
