"""The IAM policies under ``deploy/aws/policies``: who may use the keys for what, and above all who may not.

Conditions are read so that more is allowed: an Allow counts with any condition, a Deny only without one.
"""

import json
import re
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "aws" / "policies"
POLICIES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
KEY = "arn:aws:kms:REGION:ACCOUNT:key/"
SEAL_KEY, TOKEN_KEY, QUEUE_KEY = f"{KEY}SEAL_KEY", f"{KEY}TOKEN_KEY", f"{KEY}QUEUE_KEY"

NO_CALLS = {"iam": ["PassRole"]}
"""Service → actions in its policies that are no calls of its API."""

OPENS = ("kms:Decrypt", "kms:ReEncryptFrom", "kms:DeriveSharedSecret")
LEADS_TO_OPENING = ("kms:CreateGrant", "kms:PutKeyPolicy", "kms:ReplicateKey", "kms:ImportKeyMaterial")

Policy = dict[str, Any]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def applies(statement: dict[str, Any], action: str, resource: str) -> bool:
    def named(element: str, name: str) -> bool:
        return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in listed(statement[element]))

    acts = named("Action", action) if "Action" in statement else not named("NotAction", action)
    return acts and (named("Resource", resource) if "Resource" in statement else not named("NotResource", resource))


def allowed(policy: Policy, action: str, resource: str) -> bool:
    """Return True if a policy allows an action on a resource."""
    statements = [s for s in policy["Statement"] if applies(s, action, resource)]
    denied = any(s["Effect"] == "Deny" and "Condition" not in s for s in statements)
    return not denied and any(s["Effect"] == "Allow" for s in statements)


def why_the_pipeline_could_open(policy: Policy) -> list[str]:
    """Return the permissions with which the pipeline could open what it sealed. A correct policy has none."""
    found = [f"{action} on {resource}" for action in (*OPENS, *LEADS_TO_OPENING) for resource in (SEAL_KEY, f"{KEY}NEW")
             if allowed(policy, action, resource)]  # fmt: skip
    for statement in policy["Statement"]:
        via = statement.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService", "")
        if statement["Effect"] == "Allow" and applies(statement, "kms:Decrypt", QUEUE_KEY) and via[:4] != "sqs.":
            found.append("kms:Decrypt on the queue's key by other ways than the queue")
    return found


def test_the_policies_are_those_of_the_roles() -> None:
    ours = {"pipeline", "redrive", "custodian", "auditor", "key-administrator"}
    assert set(POLICIES) == ours | {"deploy", "look", "release"}


def test_the_redrive_alone_receives_dead_letters_and_knows_no_key_of_personal_data() -> None:
    dead = "arn:aws:sqs:REGION:ACCOUNT:DEAD_LETTER_QUEUE"
    assert [role for role in POLICIES if allowed(POLICIES[role], "sqs:ReceiveMessage", dead)] == ["redrive"]
    redrive = POLICIES["redrive"]
    assert allowed(redrive, "sqs:SendMessage", "arn:aws:sqs:REGION:ACCOUNT:QUEUE")
    assert not allowed(redrive, "sqs:ReceiveMessage", "arn:aws:sqs:REGION:ACCOUNT:QUEUE")
    assert not allowed(redrive, "sqs:PurgeQueue", dead)
    for key in (SEAL_KEY, TOKEN_KEY):
        assert not any(allowed(redrive, f"kms:{does}", key) for does in ("Decrypt", "GenerateMac"))


@pytest.mark.parametrize("role", ["pipeline", "redrive", "custodian"])
def test_whoever_receives_or_sends_may_use_the_key_of_the_queue_for_it(role: str) -> None:
    for call, use in (("ReceiveMessage", "Decrypt"), ("SendMessage", "Decrypt"), ("SendMessage", "GenerateDataKey")):
        for queue in ("QUEUE", "DEAD_LETTER_QUEUE"):
            if allowed(POLICIES[role], f"sqs:{call}", f"arn:aws:sqs:REGION:ACCOUNT:{queue}"):
                assert allowed(POLICIES[role], f"kms:{use}", QUEUE_KEY), call
    via = [s for s in POLICIES[role]["Statement"] if s["Effect"] == "Allow" and QUEUE_KEY in listed(s["Resource"])]
    assert {s["Condition"]["StringEquals"]["kms:ViaService"] for s in via} == {"sqs.REGION.amazonaws.com"}


@pytest.mark.parametrize("role", POLICIES)
def test_every_action_exists_and_every_statement_names_its_resources(role: str) -> None:
    for statement in POLICIES[role]["Statement"]:
        for action in listed(statement.get("Action", statement.get("NotAction"))):
            service, _, name = action.partition(":")
            if action == "rds-db:connect":  # needed by a token for the database, not by an API client
                continue
            model = boto3.client(service, region_name="eu-central-1").meta.service_model
            # S3's permission to list is named after the bucket.
            operations = [
                *model.operation_names,
                *(["ListBucket"] if service == "s3" else []),
                *NO_CALLS.get(service, []),
            ]
            assert any(fnmatchcase(operation, name) for operation in operations), action
        # Their resources are unknown before they are created or looked up.
        open_to_all = {"MakeTheNextVersion", "SeeWhoUsedThem", "SignInToRepositories", "NeverUse"}
        for resource in listed(statement["Resource"]):
            # Names that CloudFormation generates have a generated suffix.
            assert re.fullmatch(r"arn:aws:[^*]*[\w/:-]\*?", resource) or statement["Sid"] in open_to_all, resource


@pytest.mark.parametrize("role", ["deploy", "look", "release"])
def test_what_github_assumes_reaches_neither_data_nor_keys_of_it_and_only_from_its_environment(role: str) -> None:
    actions = {action for statement in POLICIES[role]["Statement"] for action in listed(statement["Action"])}
    assert {action.split(":")[0] for action in actions} <= {"sts", "cloudformation", "ecs", "iam", "ecr", "kms"}
    assert not any(allowed(POLICIES[role], action, key) for action in OPENS for key in (SEAL_KEY, TOKEN_KEY))
    reads = ("Describe", "Get", "BatchGet", "BatchCheck", "Verify")
    if role == "look":
        assert {a for a in actions if not a.split(":")[1].startswith(reads)} == {"sts:AssumeRole"}
    passes = [s for s in POLICIES[role]["Statement"] if "iam:PassRole" in listed(s["Action"])]
    assert all(s["Condition"]["StringEquals"] == {"iam:PassedToService": "ecs-tasks.amazonaws.com"} for s in passes)
    trust = json.loads((FOLDER / "trust" / "github.json").read_text())
    (statement,) = trust["Statement"]
    subject = statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert subject == "repo:OWNER/REPOSITORY:environment:NAME"


AWS_COMMANDS = {"ecr get-login-password": "ecr:GetAuthorizationToken", "ecs wait tasks-stopped": "ecs:DescribeTasks"}
"""Commands of the command line that are named otherwise than their call."""
REPOSITORY = "arn:aws:ecr:REGION:ACCOUNT:repository/loginpipe"
RELEASES = "arn:aws:ecr:REGION:RELEASES_ACCOUNT:repository/loginpipe"
PULLS = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
# As AWS documents them for a push.
PUSHES = (
    "ecr:BatchCheckLayerAvailability", "ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage",
    "ecr:UploadLayerPart",
)  # fmt: skip


def test_the_role_that_deploys_may_make_the_calls_of_the_scripts_of_a_deployment() -> None:
    workflow = (FOLDER.parents[2] / ".github" / "workflows" / "deploy.yml").read_text()
    scripts = {FOLDER.parents[2] / name for name in re.findall(r"deploy/aws/[a-z-]+\.sh", workflow)}
    found = {
        f"{service} {waits}{command}"
        for script in scripts
        for service, waits, command in re.findall(
            r"\baws ([a-z][a-z0-9]+) (wait )?([a-z][a-z0-9-]+)", script.read_text()
        )
    }
    assert {"ecs run-task", "cloudformation describe-stacks", *AWS_COMMANDS} <= found
    for command in found:
        service, _, name = command.partition(" ")
        action = AWS_COMMANDS.get(command, f"{service}:{name.title().replace('-', '')}")
        granted = {a for s in POLICIES["deploy"]["Statement"] for a in listed(s["Action"])}
        assert action in granted, command


@pytest.mark.parametrize(
    ("role", "actions", "resource"),
    [
        ("deploy", PULLS, RELEASES),
        ("deploy", (*PULLS, *PUSHES), REPOSITORY),
        ("deploy", ["kms:GetPublicKey"], "arn:aws:kms:REGION:RELEASES_ACCOUNT:key/SIGNING_KEY"),
        ("release", ["ecr:GetAuthorizationToken"], "*"),
        ("release", (*PULLS, *PUSHES), REPOSITORY),
        ("release", ["kms:GetPublicKey", "kms:Sign"], f"{KEY}SIGNING_KEY"),
        ("look", ["cloudformation:GetTemplate"], "arn:aws:cloudformation:REGION:ACCOUNT:stack/LoginpipeServices/1"),
        *(
            (role, ["sts:AssumeRole"], f"arn:aws:iam::ACCOUNT:role/cdk-hnb659fds-{of}-role-ACCOUNT-REGION")
            for role, of in (("deploy", "deploy"), ("deploy", "file-publishing"), ("look", "lookup"))
        ),
    ],
)
def test_what_github_assumes_may_do_what_its_job_does(role: str, actions: list[str], resource: str) -> None:
    assert [action for action in actions if not allowed(POLICIES[role], action, resource)] == []


def test_the_pipeline_can_seal_and_mask_and_work_the_queue() -> None:
    pipeline = POLICIES["pipeline"]
    queue = "arn:aws:sqs:REGION:ACCOUNT:QUEUE"
    assert allowed(pipeline, "kms:GetPublicKey", SEAL_KEY)
    assert allowed(pipeline, "kms:GenerateMac", TOKEN_KEY)
    assert all(allowed(pipeline, f"sqs:{do}", queue) for do in ("ReceiveMessage", "DeleteMessage"))
    assert allowed(pipeline, "sqs:ListDeadLetterSourceQueues", "arn:aws:sqs:REGION:ACCOUNT:DEAD_LETTER_QUEUE")
    assert not allowed(pipeline, "sqs:SendMessage", queue)
    assert not allowed(pipeline, "sqs:PurgeQueue", queue)
    topic = "arn:aws:sns:REGION:ACCOUNT:ALERT_TOPIC"
    assert allowed(pipeline, "sns:Publish", topic)
    assert not allowed(pipeline, "sns:Subscribe", topic)


def test_the_pipeline_reads_and_writes_the_archive_and_nothing_else_of_the_bucket() -> None:
    pipeline = POLICIES["pipeline"]
    for action in ("s3:PutObject", "s3:GetObject", "s3:DeleteObject"):
        assert allowed(pipeline, action, "arn:aws:s3:::BUCKET/PREFIX/day=2026-11-20/part-1.parquet")
        assert not allowed(pipeline, action, "arn:aws:s3:::BUCKET/elsewhere/part-1.parquet")
    assert not any(
        allowed(pipeline, f"s3:{does}", of)
        for does in ("DeleteBucket", "PutBucketPolicy", "DeleteObjectVersion", "PutLifecycleConfiguration")
        for of in ("arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/PREFIX/x")
    )


def test_the_pipeline_cannot_open_what_it_sealed_nor_give_itself_the_right_to() -> None:
    assert why_the_pipeline_could_open(POLICIES["pipeline"]) == []


ALLOW = {"Effect": "Allow"}


@pytest.mark.parametrize(
    ("statement", "without_deny"),
    [
        ({**ALLOW, "Action": "kms:Decrypt", "Resource": "*"}, False),
        ({**ALLOW, "Action": "kms:De*", "Resource": f"{KEY}*"}, False),
        ({**ALLOW, "Action": "kms:Decrypt", "Resource": SEAL_KEY}, True),
        ({**ALLOW, "Action": ["kms:*"], "Resource": [SEAL_KEY]}, True),
        ({**ALLOW, "NotAction": "iam:*", "Resource": "*"}, False),
        ({**ALLOW, "Action": "kms:PutKeyPolicy", "Resource": "*"}, False),
        ({**ALLOW, "Action": "KMS:createGrant", "NotResource": TOKEN_KEY}, False),
        ({**ALLOW, "Action": "kms:Decrypt", "Resource": QUEUE_KEY}, False),
    ],
    ids=["any key", "by pattern", "the key", "everything", "all but", "key policy", "grant", "not by the queue"],
)
def test_a_policy_that_would_let_the_pipeline_open_is_noticed(statement: dict[str, Any], without_deny: bool) -> None:
    policy = deepcopy(POLICIES["pipeline"])
    policy["Statement"] = [s for s in policy["Statement"] if not (without_deny and s["Effect"] == "Deny")]
    policy["Statement"].append(statement)
    assert why_the_pipeline_could_open(policy)


def test_the_custodian_opens_with_a_second_factor_and_administers_nothing() -> None:
    custodian = POLICIES["custodian"]
    (opens,) = [s for s in custodian["Statement"] if applies(s, "kms:Decrypt", SEAL_KEY)]
    assert opens["Condition"]["Bool"] == {"aws:MultiFactorAuthPresent": "true"}
    assert allowed(custodian, "kms:GenerateMac", TOKEN_KEY)
    assert not any(allowed(custodian, action, SEAL_KEY) for action in (*LEADS_TO_OPENING, "kms:ScheduleKeyDeletion"))


@pytest.mark.parametrize("role", ["auditor", "key-administrator"])
def test_those_who_watch_and_those_who_administer_use_no_key(role: str) -> None:
    for key in (SEAL_KEY, TOKEN_KEY):
        assert not any(
            allowed(POLICIES[role], action, key) for action in (*OPENS, "kms:GenerateMac", "kms:CreateGrant")
        )


def test_a_key_that_the_administrator_makes_is_none_that_they_may_use() -> None:
    """Its key policy is set by the administrator and could allow it, but an explicit Deny still applies."""
    generous = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    administrator = {"Statement": [*POLICIES["key-administrator"]["Statement"], generous]}
    for action in (*OPENS, "kms:GenerateMac", "kms:CreateGrant", "kms:PutKeyPolicy"):
        assert not allowed(administrator, action, "arn:aws:kms:REGION:ACCOUNT:key/OF_THEIR_OWN")


def test_the_auditor_sees_grants_and_policies_and_changes_nothing() -> None:
    for statement in POLICIES["auditor"]["Statement"]:
        assert all(
            a.split(":")[1].startswith(("Describe", "Get", "List", "Lookup")) for a in listed(statement["Action"])
        )
