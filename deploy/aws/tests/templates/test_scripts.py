"""The two scripts that a deployment calls, with stand-ins for the programs of others that they call in their turn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import AWS

RELEASES = "444455556666.dkr.ecr.us-east-1.amazonaws.com/loginpipe"
OWN = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/loginpipe"
DIGEST, LAMBDA = (f"sha256:{letter * 64}" for letter in "ab")
ANSWERS = {
    "aws cloudformation describe-stacks": 'case "$*" in *Images*) echo "$OWN";; *) echo subnet-1;; esac',
    "aws ecr get-login-password": "echo word",
    "aws ecr batch-get-image": 'case "$*" in *-lambda*) echo "${KNOWN_LAMBDA:-None}";; *) echo "${KNOWN:-None}";; esac',
    "aws ecs run-task": "echo arn:aws:ecs:eu-central-1:111122223333:task/loginpipe/0123",
    "aws ecs wait": ":",
    "aws ecs describe-tasks": 'printf "%s\\tEssential container in task exited\\n" "${CODE:-0}"',
    "aws service-quotas get-service-quota": 'case "$*" in *L-3032A538*) echo "${VCPUS:-6.0}";; *) echo 5.0;; esac',
    "aws ec2 describe-vpcs": "echo 1",
    "aws ec2 describe-addresses": 'echo "${ADDRESSES:-4}"',
    "docker login": "cat > /dev/null",
    "skopeo inspect": 'case "$*" in *-lambda) echo "$LAMBDA";; *) echo "$DIGEST";; esac',
    "skopeo copy": ":",
    "gh api": 'echo "$RULES" | jq "$4"',
    "cosign verify": 'exit "${UNSIGNED:-0}"',
    "gh attestation verify": 'case "$*" in *"${UNSIGNED_DIGEST:-none}"*) exit 1;; esac',
}
"""Beginning of a command → what the stand-in does instead."""


def run(
    folder: Path, script: str, *arguments: str, **environment: str
) -> tuple["subprocess.CompletedProcess[str]", str]:
    """Run a script; return what came of it, and the commands that it called, a line each."""
    cases = "\n".join(f'"{beginning}"*) {answer};;' for beginning, answer in ANSWERS.items())
    for program in {beginning.split()[0] for beginning in ANSWERS}:
        stand_in = folder / program
        stand_in.write_text(
            f'#!/bin/sh\necho "{program} $*" >> "$CALLED"\ncase "{program} $*" in\n{cases}\n*) exit 9;; esac\n'
        )
        stand_in.chmod(0o755)
    called = folder / "called"
    done = subprocess.run(
        ["bash", str(AWS / script), *arguments],
        env={
            "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CALLED": str(called), "OWN": OWN, "DIGEST": DIGEST, "LAMBDA": LAMBDA,
            "RELEASES": RELEASES, "GITHUB_REPOSITORY": "example/loginpipe", **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done, called.read_text()


def test_both_images_are_verified_and_then_copied_by_their_digests(tmp_path: Path) -> None:
    done, called = run(tmp_path, "copy-image.sh", "1.2.3")
    assert done.returncode == 0, done.stderr
    verified = called.rindex(f"gh attestation verify oci://{RELEASES}@{LAMBDA} --repo example/loginpipe ")
    assert called.index(f"gh attestation verify oci://{RELEASES}@{DIGEST} --repo example/loginpipe ") < verified
    assert "--signer-workflow example/loginpipe/.github/workflows/release.yml" in called
    for digest, tag in ((DIGEST, "1.2.3"), (LAMBDA, "1.2.3-lambda")):
        copy = f"skopeo copy --all --preserve-digests docker://{RELEASES}@{digest} docker://{OWN}:{tag}\n"
        assert verified < called.index(copy)


def test_each_repository_is_signed_in_to_in_its_own_region(tmp_path: Path) -> None:
    _, called = run(tmp_path, "copy-image.sh", "1.2.3")
    for region, repository in (("us-east-1", RELEASES), ("eu-central-1", OWN)):
        assert f"get-login-password --region {region}\n" in called
        assert f"docker login --username AWS --password-stdin {repository.removesuffix('/loginpipe')}\n" in called


@pytest.mark.parametrize("unsigned", [DIGEST, LAMBDA], ids=["the image", "that of Lambda"])
def test_where_the_release_workflow_has_not_signed_one_neither_is_copied(tmp_path: Path, unsigned: str) -> None:
    done, called = run(tmp_path, "copy-image.sh", "1.2.3", UNSIGNED_DIGEST=unsigned)
    assert done.returncode == 1
    assert "skopeo copy" not in called


@pytest.mark.parametrize("unsigned", ["0", "1"], ids=["signed", "not signed"])
def test_where_releases_are_signed_with_kms_cosign_verifies(tmp_path: Path, unsigned: str) -> None:
    key = "awskms:///arn:aws:kms:us-east-1:444455556666:key/signing"
    done, called = run(tmp_path, "copy-image.sh", "1.2.3", SIGNING_KEY=key, UNSIGNED=unsigned)
    assert done.returncode == int(unsigned)
    assert f"cosign verify --key {key} --insecure-ignore-tlog=true {RELEASES}@{DIGEST}\n" in called
    assert "gh attestation" not in called
    assert ("skopeo copy" in called) is (unsigned == "0")


@pytest.mark.parametrize(
    ("reviewers", "without", "code", "said"),
    [
        (2, "false", 0, "environment production asks one of 2 reviewers\n"),
        (
            0,
            "false",
            1,
            "environment production has no required reviewers, so this would not be approved: add them in its ",
        ),
        (
            0,
            "true",
            0,
            "::warning::environment production has no required reviewers: this deployment is not approved by anyone\n",
        ),
    ],
    ids=["asked", "no reviewers", "on purpose"],
)
def test_a_deployment_that_no_one_approves_fails_unless_it_is_meant(
    tmp_path: Path, reviewers: int, without: str, code: int, said: str
) -> None:
    # As GitHub answers: an environment may have other rules, which ask no one.
    asks = [{"type": "required_reviewers", "reviewers": [{"type": "User"}] * reviewers}] if reviewers else []
    rules = json.dumps({"protection_rules": [{"type": "wait_timer", "wait_timer": 30}, *asks]})
    done, called = run(tmp_path, "require-approver.sh", "production", RULES=rules, WITHOUT_APPROVER=without)
    assert done.returncode == code
    assert (done.stderr if code else done.stdout).startswith(said)
    assert "gh api repos/example/loginpipe/environments/production --jq" in called


def test_an_image_that_is_there_already_is_verified_and_left(tmp_path: Path) -> None:
    done, called = run(tmp_path, "copy-image.sh", "1.2.3", KNOWN=DIGEST, KNOWN_LAMBDA=LAMBDA)
    assert done.returncode == 0
    assert "gh attestation verify" in called
    assert "skopeo copy" not in called


def test_another_image_under_the_releases_tag_stops_it_with_one_line(tmp_path: Path) -> None:
    done, called = run(tmp_path, "copy-image.sh", "1.2.3", KNOWN="sha256:0")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{OWN} has another image as 1.2.3 (sha256:0, the release is {DIGEST}): ")
    assert done.stderr.count("\n") == 1
    assert "skopeo copy" not in called


@pytest.mark.parametrize(
    ("code", "expected"), [("0", 0), ("1", 1), ("None", 1)], ids=["well", "badly", "never started"]
)
def test_a_one_off_task_ends_the_script_as_it_ended_itself(tmp_path: Path, code: str, expected: int) -> None:
    done, called = run(tmp_path, "run-task.sh", "loginpipe-migrate", CODE=code)
    assert done.returncode == expected
    assert "--task-definition loginpipe-migrate" in called
    assert "{subnets=[subnet-1],securityGroups=[subnet-1],assignPublicIp=DISABLED}" in called
    assert called.index("ecs wait tasks-stopped") < called.index("ecs describe-tasks")
    if expected:
        assert done.stderr == (
            f"loginpipe-migrate ended with {code} (Essential container in task exited): see the log group "
            "/loginpipe/setup, of loginpipe-run /loginpipe/run\n"
        )


def test_another_command_is_passed_to_a_one_off_task_of_another_installation(tmp_path: Path) -> None:
    command = ["loginpipe", "dlq", "redrive", "--per-second", "200"]
    done, called = run(tmp_path, "run-task.sh", "acme-redrive", *command, INSTALLATION="acme")
    assert done.returncode == 0, done.stderr
    assert "--stack-name AcmeData" in called
    assert "--cluster acme --launch-type FARGATE --task-definition acme-redrive" in called
    overrides = {"containerOverrides": [{"name": "redrive", "command": command}]}
    assert f"--overrides {json.dumps(overrides, separators=(',', ':'))}" in called


@pytest.mark.parametrize(
    ("granted", "said"),
    [
        ({}, []),
        (
            {"VCPUS": "5.0", "ADDRESSES": "5"},
            [
                "5.75 are needed, and quota L-3032A538 of fargate is 5.0: ask for more",
                "6 are needed, and quota L-0263D0A3 of ec2 is 5.0: ask for more",
            ],
        ),
    ],
    ids=["enough", "too little"],
)
def test_quotas_are_compared_with_what_the_environment_takes(
    tmp_path: Path, granted: dict[str, str], said: list[str]
) -> None:
    done, _ = run(tmp_path, "check-quotas.sh", "production", **granted)
    assert done.returncode == (1 if said else 0), done.stderr
    # The CDK has a word about the version of Node.js.
    lines = [line for line in done.stderr.splitlines() if "!!" not in line]
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))
