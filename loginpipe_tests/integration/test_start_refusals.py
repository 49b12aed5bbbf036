"""Runs that must not start: each fails with one sentence that names the fix, and takes no message from the queue."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from loginpipe.common.errors import SettingError
from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.defs.metadata import CHAIN
from loginpipe.masking.key_files import generate_seal_key, generate_token_keys, read_seal_key, read_token_keys
from loginpipe.postgres.connections import connect
from loginpipe.postgres.migrate import HEAD
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.wire import (
    OLD_LOCALSTACK,
    PLAIN_WEB_SERVER,
    Answer,
    Wire,
    answers,
    at_the_wire,
    cause_of_failure,
    logins,
    refusal,
    take,
)

PROTOCOL = (
    "is at an endpoint that does not answer in today's SQS protocol: LocalStack does from 3.0 on; upgrade it, or fix "
    "AWS_ENDPOINT_URL"
)


@pytest.fixture(autouse=True)
def _messages_wait(pipeline: Pipeline) -> None:
    pipeline.send(logins(3))


@pytest.fixture
def wire(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)
    with at_the_wire(pipeline, monkeypatch) as wire:
        yield wire


def refused(pipeline: Pipeline) -> str:
    """Run the job; return the one sentence of its failure, and check that it received nothing."""
    cause = cause_of_failure(take(pipeline, 3))
    assert_nothing_was_received(pipeline)
    assert "\n" not in cause
    return cause


def assert_nothing_was_received(pipeline: Pipeline) -> None:
    assert pipeline.depth() == (3, 0)
    delivered = pipeline.queue.client.receive_message(
        QueueUrl=pipeline.queue.url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )
    assert [message["Attributes"]["ApproximateReceiveCount"] for message in delivered["Messages"]] == ["1"] * 3


def test_a_queue_that_does_not_exist(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_QUEUE", "no-such-queue")
    assert refused(pipeline) == (
        "QueueError: queue 'no-such-queue' does not exist in this account and region: create it, or set "
        "LOGINPIPE_QUEUE or AWS_REGION"
    )


def test_an_endpoint_out_of_reach(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening, so that nothing answers there
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert refused(pipeline) == (
            f"QueueError: queue '{pipeline.queue.name}': the endpoint is unreachable: check that it is up, and "
            "check AWS_ENDPOINT_URL and AWS_REGION"
        )


MISSING_ACTION = Answer(
    400,
    b"<ErrorResponse><Error><Type>Sender</Type><Code>MissingAction</Code></Error></ErrorResponse>",
    {"Content-Type": "text/xml"},
)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(OLD_LOCALSTACK, " (it answered 500)", id="LocalStack before 3.0"),
        pytest.param(MISSING_ACTION, " (it answered 400)", id="an emulator of the query protocol"),
        pytest.param(PLAIN_WEB_SERVER, "", id="a web server"),
        pytest.param(Answer(200, b""), "", id="an empty success"),
        pytest.param(Answer(200, b'{"status": "ok"}'), "", id="another JSON service"),
        pytest.param(Answer(200, b"[]"), "", id="a JSON service that answers a list"),
        pytest.param(Answer(200, b"\x1f\x8b\x08\x00\xff\xfe"), "", id="something that is no text"),
        pytest.param(Answer(302, b"", {"Location": "/login"}), " (it answered 302)", id="a redirect to a login page"),
        pytest.param(Answer(404, b"<html>not found</html>"), " (it answered 404)", id="a page not found"),
    ],
)
def test_an_endpoint_that_does_not_speak_todays_sqs_is_never_taken_for_an_empty_queue(
    pipeline: Pipeline, wire: Wire, answer: Answer, status: str
) -> None:
    wire.on("*", answers(answer))
    assert refused(pipeline) == f"QueueError: queue '{pipeline.queue.name}' {PROTOCOL}{status}"


@pytest.mark.parametrize(
    ("answer", "status"), [(OLD_LOCALSTACK, " (it answered 500)"), (PLAIN_WEB_SERVER, "")], ids=["LocalStack", "web"]
)
def test_nor_is_it_where_the_queue_is_given_by_its_url(
    pipeline: Pipeline, wire: Wire, monkeypatch: pytest.MonkeyPatch, answer: Answer, status: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_QUEUE", pipeline.queue.url)
    wire.on("*", answers(answer))
    assert refused(pipeline) == f"QueueError: queue '{pipeline.queue.name}' {PROTOCOL}{status}"


def test_credentials_without_access_to_the_queue(pipeline: Pipeline, wire: Wire) -> None:
    wire.on("GetQueueAttributes", answers(refusal("AccessDeniedException")))
    assert refused(pipeline) == (
        f"QueueError: queue '{pipeline.queue.name}' may not be used with these credentials (AccessDeniedException): "
        "grant what docs/aws.md lists"
    )


def test_a_database_out_of_reach(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", "postgresql://writer:hunter2@127.0.0.1:1/logins")
    assert refused(pipeline) == (
        "DatabaseError: cannot connect to the database logins at 127.0.0.1:1: it is unreachable: nothing answers "
        "there; check host and port, and that the server runs"
    )


def test_a_database_that_is_not_migrated(
    pipeline: Pipeline, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    cause = refused(pipeline)
    assert cause.startswith("SchemaError: the database empty_")
    assert cause.endswith(f"is not migrated (at none, needs {HEAD}): run `loginpipe migrate`")


def test_a_token_key_file_that_is_absent(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "absent.json"
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{path}")
    assert refused(pipeline) == (
        f"KeyFileError: the token key file {path} cannot be read (No such file or directory): fix that, or make one "
        "with `loginpipe keys generate`"
    )


def test_a_token_key_file_that_others_can_read(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token_keys.json"
    generate_token_keys(path, development=True)
    path.chmod(0o644)
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{path}")
    assert refused(pipeline) == f"KeyFileError: the token key file {path} has the mode 0644: run `chmod 600 {path}`"


def test_a_token_key_that_is_not_the_one_of_this_database(
    pipeline: Pipeline, key_files: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = read_token_keys(key_files.token_keys)
    connection = connect(pipeline.database_url)
    check_token_keys(connection, right)
    connection.close()
    other = tmp_path / "token_keys.json"
    generate_token_keys(other, development=True)
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{other}")
    assert refused(pipeline) == (
        "TokenKeyMismatchError: token key version 1 is not the key that this database's tokens of version 1 were made "
        "with: restore the right key, or use another database"
    )


def test_a_seal_key_that_is_the_private_half(
    pipeline: Pipeline, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", f"file:{key_files.seal_private}")
    assert refused(pipeline) == (
        f"KeyFileError: {key_files.seal_private} holds no public key in PEM: is it the private half?"
    )


def test_a_seal_key_that_was_swapped(
    pipeline: Pipeline, key_files: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = tmp_path / "seal_public.pem"
    generate_seal_key(swapped)
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", f"file:{swapped}")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY_FINGERPRINT", read_seal_key(key_files.seal_public).fingerprint)
    assert refused(pipeline) == (
        f"KeyFileError: {swapped} has the fingerprint {read_seal_key(swapped).fingerprint}, not the one in "
        "LOGINPIPE_SEAL_KEY_FINGERPRINT: the key was swapped, or the setting is out of date"
    )


def test_a_development_key_in_production(
    pipeline: Pipeline, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    assert refused(pipeline) == (
        f"KeyFileError: {key_files.token_keys} holds a development key, which production refuses: run "
        "`loginpipe keys generate`"
    )


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("LOGINPIPE_DATABASE_URL", "postgresql://user@host/database"),
        ("LOGINPIPE_TOKEN_KEYS", "the URI of the token keys, as in file:keys/token_keys.json"),
        ("LOGINPIPE_SEAL_KEY", "the URI of the public seal key, as in file:keys/seal_public.pem, or off"),
    ],
)
def test_a_setting_that_is_missing(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, name: str, fix: str) -> None:
    monkeypatch.delenv(name)
    assert refused(pipeline) == f"SettingError: {name} is not set: set it to {fix}"


@pytest.mark.parametrize(
    ("name", "wrong", "problem"),
    [
        ("LOGINPIPE_BATCH_MESSAGES", "0", "Input should be greater than or equal to 1"),
        ("LOGINPIPE_VISIBILITY_SECONDS", "soon-7f3a", "Input should be a valid integer"),
        ("LOGINPIPE_DATABASE_URL", "mysql://writer:hunter2@db/logins", "must begin with postgresql://"),
    ],
)
def test_a_setting_that_is_wrong_keeps_the_project_from_loading_and_its_value_is_not_shown(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, name: str, wrong: str, problem: str
) -> None:
    monkeypatch.setenv(name, wrong)
    with pytest.raises(SettingError) as caught:
        pipeline.run()
    said = str(caught.value)
    assert said.startswith(f"invalid setting: {name}: {problem}")
    assert "\n" not in said
    assert "hunter2" not in said
    assert "7f3a" not in said
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    os.environ.pop(name)
    assert_nothing_was_received(pipeline)


PARTS = [
    *([name] for name in CHAIN),
    ["validated_logins", "rejected_logins"],
    ["masked_logins", "user_logins_table"],
    list(CHAIN[1:]),
    [name for name in CHAIN if name != "rejected_logins"],
    list(CHAIN[:-1]),
]


@pytest.mark.parametrize("part", PARTS, ids=", ".join)
def test_a_part_of_the_chain_in_the_job(pipeline: Pipeline, part: list[str]) -> None:
    job = build_definitions().resolve_job_def(INGEST_JOB)
    selection = [dg.AssetKey(name) for name in part]
    with pytest.raises(dg.DagsterInvalidSubsetError, match="does not support subsetting"):
        job.execute_in_process(instance=pipeline.instance, asset_selection=selection)
    assert pipeline.instance.get_runs_count() == 0
    assert_nothing_was_received(pipeline)


def test_a_part_of_the_chain_on_the_command_line(pipeline: Pipeline, tmp_path: Path) -> None:
    environment = dict(os.environ) | {"DAGSTER_HOME": str(tmp_path)}
    command = [str(Path(sys.executable).parent / "dagster"), "asset", "materialize", "-m", "loginpipe.definitions"]
    done = subprocess.run(
        [*command, "--select", "masked_logins"], env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "DagsterInvalidSubsetError" in done.stderr
    assert "STEP_START" not in done.stderr + done.stdout
    assert_nothing_was_received(pipeline)


def test_after_the_fix_the_waiting_messages_are_taken(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as mistaken:
        mistaken.setenv("LOGINPIPE_SEAL_KEY", "file:absent.pem")
        assert not take(pipeline, 3).success
    assert take(pipeline, 3).success
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(3,)]
