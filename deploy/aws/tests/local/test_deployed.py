"""The stacks on the embedded endpoint, from the first task to logins in the table, in the order of an installation."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import boto3
import pytest

from conftest import Deployed, Task, rows, with_fingerprint
from loginpipe.common.settings import load_settings
from loginpipe.local.sample_events import sample_bodies
from loginpipe.masking.aws_keys import kms_client, read_kms_seal_key, read_kms_token_keys
from loginpipe.sqs.client import open_queue
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe.sqs.sending import send_bodies


def test_everything_that_the_endpoint_knows_is_deployed(deployed: Deployed) -> None:
    assert dict(deployed.left_out) == {
        "LoginpipeData": {
            "AWS::EC2::EIP", "AWS::EC2::FlowLog", "AWS::EC2::NatGateway", "AWS::EC2::Route",
            "AWS::EC2::SecurityGroupEgress", "AWS::EC2::SecurityGroupIngress",
        },
        "LoginpipeSetup": set(),
        "LoginpipeServices": {"AWS::EC2::SecurityGroupIngress"},
    }  # fmt: skip


def test_a_first_deployment_that_failed_left_nothing_in_the_way_of_the_next(deployed: Deployed) -> None:
    # What was there before: the secret of the sign-in's client, and the bucket of the templates.
    assert dict(deployed.left_behind) == {
        "queues": [], "secrets": ["loginpipe/oidc"], "repositories": [], "buckets": ["templates"],
    }  # fmt: skip


def test_loginpipe_finds_the_dead_letter_queue_behind_the_queue(deployed: Deployed) -> None:
    queue = open_queue(deployed.outputs("LoginpipeData")["QueueUrl"], load_settings(), connections=1)
    policy = redrive_policy(queue)
    assert policy is not None
    assert policy.max_receives == 5
    assert policy.dead_letters.name == "loginpipe-login-queue-dlq"


def test_loginpipe_derives_tokens_and_takes_the_seal_key(deployed: Deployed) -> None:
    outputs = deployed.outputs("LoginpipeData")
    client = kms_client(production=True)
    versions = dict(enumerate((part.split("=")[1] for part in outputs["TokenKeys"][7:].split(",")), 1))
    assert read_kms_token_keys(client, versions).current == 2
    assert read_kms_seal_key(client, outputs["SealKey"]).fingerprint


def test_buckets_topic_and_secrets_are_what_the_templates_say(deployed: Deployed) -> None:
    bucket = deployed.outputs("LoginpipeData")["ArchiveBucket"]
    s3 = boto3.client("s3")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    (topic,) = boto3.client("sns").list_topics()["Topics"]
    assert topic["TopicArn"].endswith(":loginpipe-alerts")
    secret = boto3.client("secretsmanager").get_secret_value(SecretId="loginpipe/database/pipeline")["SecretString"]
    assert json.loads(secret)["username"] == "loginpipe_pipeline"
    assert len(json.loads(secret)["password"]) == 40


def test_the_logins_have_the_passwords_of_their_secrets_which_no_statement_carried(prepared: Deployed) -> None:
    stored = dict(rows(prepared, "SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL"))
    for part, login in {"owner": "loginpipe", "pipeline": "loginpipe_pipeline", "dagster": "dagster"}.items():
        value = boto3.client("secretsmanager").get_secret_value(SecretId=f"loginpipe/database/{part}")["SecretString"]
        assert scram_fits(json.loads(value)["password"], stored[login])


def test_owner_and_pipeline_may_do_what_theirs_is_and_dagster_may_not_read_the_warehouse(prepared: Deployed) -> None:
    owners = dict(rows(prepared, "SELECT datname, pg_get_userbyid(datdba) FROM pg_database"))
    assert owners["loginpipe"] == "loginpipe"
    assert owners["dagster"] == "dagster"
    statement = "SELECT rolname, has_database_privilege(rolname, 'loginpipe', 'CONNECT') FROM pg_roles"
    may = dict(rows(prepared, statement))
    assert may["loginpipe_pipeline"]
    assert not may["dagster"]


@pytest.fixture(scope="module")
def run_task(prepared: Deployed) -> Task:
    return with_fingerprint(prepared)


@pytest.mark.parametrize("family", ["run", "check"])
def test_doctor_is_content_with_what_a_task_is_told(prepared: Deployed, tmp_path: Path, family: str) -> None:
    done = with_fingerprint(prepared, family).run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout


def test_the_look_before_the_services_ends_badly_where_something_is_wrong(prepared: Deployed, tmp_path: Path) -> None:
    # The fingerprint of the example's values is of no key.
    done = prepared.task("check").run(tmp_path)
    assert done.returncode == 1
    assert "✗ seal key" in done.stdout


def test_passwords_are_in_a_private_file_and_no_longer_in_the_environment(run_task: Task, tmp_path: Path) -> None:
    done = run_task.run(tmp_path, ["env"])
    assert "PASSWORD" not in done.stdout
    file = tmp_path / ".pgpass"
    assert file.stat().st_mode & 0o777 == 0o600
    logins = [line.split(":")[:4] for line in file.read_text().splitlines()]
    assert logins == [["*", "5432", "*", "loginpipe_pipeline"], ["*", "5432", "*", "dagster"]]


def test_logins_come_from_the_queue_to_the_table_and_what_was_printed_to_the_bucket(
    prepared: Deployed, run_task: Task, tmp_path: Path
) -> None:
    queue = open_queue(prepared.outputs("LoginpipeData")["QueueUrl"], load_settings(), connections=4)
    assert send_bodies(queue, sample_bodies(200, seed=1)) == 200
    done = run_task.run(
        tmp_path, ["dagster", "asset", "materialize", "-m", "loginpipe.definitions", "--select", "group:login_ingest"]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ((logins, rejects),) = rows(
        prepared, "SELECT (SELECT count(*) FROM user_logins), (SELECT count(*) FROM loginpipe.rejected_messages)"
    )
    assert logins + rejects == 200
    assert rows(prepared, "SELECT DISTINCT left(masked_ip, 6) FROM user_logins") == [("ip.v2.",)]
    bucket = run_task.environment(tmp_path)["LOGINPIPE_COMPUTE_LOGS_BUCKET"]
    kept = boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    assert all(each["Key"].startswith("dagster/") for each in kept)


def test_the_redrive_moves_dead_letters_back_and_the_metrics_are_lines_for_cloudwatch(
    prepared: Deployed, tmp_path: Path
) -> None:
    queue = open_queue(prepared.outputs("LoginpipeData")["QueueUrl"], load_settings(), connections=1)
    policy = redrive_policy(queue)
    assert policy is not None
    assert send_bodies(policy.dead_letters, sample_bodies(3, seed=4)) == 3
    redrive = prepared.task("redrive")
    counted = redrive.run(tmp_path)
    assert counted.stdout.startswith("3 would be moved to queue 'loginpipe-login-queue'"), counted.stderr
    moved = redrive.run(tmp_path, ["loginpipe", "dlq", "redrive"])
    assert moved.stdout.startswith("3 moved to queue 'loginpipe-login-queue'"), moved.stderr
    metrics = prepared.task("metrics")
    printed = metrics.run(tmp_path, [*metrics.container["command"], "--once"])
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    (waiting,) = [line for line in lines if line.get("state") == "visible"]
    assert waiting["loginpipe_queue_messages"] == 3
    assert waiting["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["queue", "state"]]
    # Other tests count what is on the queue.
    boto3.client("sqs").purge_queue(QueueUrl=queue.url)


def scram_fits(password: str, stored: str) -> bool:
    """Whether a password is the one of a SCRAM verifier, as RFC 5802 computes it."""
    _, iterations_and_salt, keys = stored.split("$")
    iterations, salt = iterations_and_salt.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return hmac.compare_digest(base64.b64encode(key).decode(), keys.split(":")[0])
