"""The exceptions from checkov's rules, with reasons. They are written into the templates, where checkov reads them."""

from collections.abc import Sequence
from typing import Final

import aws_cdk as cdk
from constructs import IConstruct

EXCEPTIONS: Final = (
    ("Storage/AccessLogs", "CKV_AWS_18", "it is where access logs go: logging its own access would never end"),
    ("Storage/AccessLogs", "CKV_AWS_21", "S3 and load balancers write each of its objects once"),
    ("Storage/ComputeLogs", "CKV_AWS_21", "what tasks print is written over as it grows, and gone after 30 days"),
    ("Database/Replica", "CKV_AWS_16", "encrypted with the key of its source; in one region RDS refuses to be told so"),
    ("Database/Replica", "CKV_AWS_157", "a copy to read from: the instance it copies is in two zones"),
    ("PersonalData/TokensV", "CKV_AWS_7", "KMS cannot turn an HMAC key; token_key_versions makes the next one"),
    (
        "Roles/KeyAdministrator/DefaultPolicy",
        "CKV_AWS_111",
        "kms:CreateKey has no resource before it has run; using keys is denied",
    ),
)
"""The beginning of a construct's path in its stack, the check, and the reason."""


def note_exceptions(stack: cdk.Stack, exceptions: Sequence[tuple[str, str, str]] = EXCEPTIONS) -> None:
    """Write the exceptions of a stack into the metadata of the resources that they apply to."""
    for beginning, check, reason in exceptions:
        for resource in _resources(stack, beginning):
            known = resource.get_metadata("checkov") or {"skip": []}
            resource.add_metadata("checkov", {"skip": [*known["skip"], {"id": check, "comment": reason}]})


def _resources(stack: cdk.Stack, beginning: str) -> list[cdk.CfnResource]:
    prefix = f"{stack.node.path}/{beginning}"
    found: list[IConstruct] = [node for node in stack.node.find_all() if node.node.path.startswith(prefix)]
    # The policy of a bucket or the alias of a key has no exceptions of its own.
    return [
        node
        for node in found
        if isinstance(node, cdk.CfnResource)
        and node.node.path.endswith("/Resource")
        and not node.cfn_resource_type.endswith(("::BucketPolicy", "::Alias"))
    ]
