"""The policies of ``deploy/aws/policies``, with the real resources in them: the one source of who may do what."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aws_cdk import aws_iam as iam

FOLDER: Final = Path(__file__).parents[1] / "policies"
_PLACEHOLDER: Final = re.compile(r"\b[A-Z][A-Z_]{2,}\b")

Resources = Mapping[str, str | list[str]]
"""What a policy file writes → what stands in the account: ``arn:aws:sqs:REGION:ACCOUNT:QUEUE`` → the queue's ARN."""


def statements(role: str, resources: Resources, sids: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Return a policy's statements for the account.

    Args:
        role: the file's name without its suffix.
        resources: for each of its placeholders; several where a key has several versions.
        sids: those to take; all of them unless given.

    Raises:
        LookupError: there is no such statement, or no resource for a placeholder.
    """
    policy = json.loads((FOLDER / f"{role}.json").read_text())
    known = {statement["Sid"]: statement for statement in policy["Statement"]}
    return [_filled(known[sid], resources) for sid in (known if sids is None else sids)]


def on_key(role: str, key: str, principal_arns: Sequence[str]) -> list[dict[str, Any]]:
    """Return those statements of a policy that name a key, as the key's own policy says them: of principals.

    Args:
        role: the file's name without its suffix.
        key: as the files write it.
        principal_arns: whom they are about; at least one.
    """
    policy = json.loads((FOLDER / f"{role}.json").read_text())
    return [
        {**statement, "Principal": {"AWS": list(principal_arns)}, "Resource": "*"}
        for statement in policy["Statement"]
        if key in _listed(statement["Resource"])
    ]


def attach(role: iam.Role, found: list[dict[str, Any]]) -> None:
    """Give a role statements as its own."""
    for statement in found:
        role.add_to_policy(iam.PolicyStatement.from_json(statement))


def _filled(statement: Mapping[str, Any], resources: Resources) -> dict[str, Any]:
    filled = dict(statement)
    filled["Resource"] = [arn for written in _listed(statement["Resource"]) for arn in _arns(written, resources)]
    if "Condition" in statement:
        filled["Condition"] = {
            test: {key: _value(value, resources) for key, value in keys.items()}
            for test, keys in statement["Condition"].items()
        }
    return filled


def _arns(written: str, resources: Resources) -> list[str]:
    found = resources.get(written)
    if found is None and _PLACEHOLDER.search(written):
        raise LookupError(f"no resource for {written} in the policies")
    return _listed(written if found is None else found)


def _value(written: str, resources: Resources) -> Any:
    found = resources.get(written)
    if found is None and re.search(r"REGION|ACCOUNT|PREFIX", written):
        raise LookupError(f"no value for {written} in the policies")
    return written if found is None else found


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
