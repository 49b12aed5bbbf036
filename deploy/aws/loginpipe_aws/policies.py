"""Read the policies of ``deploy/aws/policies``, the single source of all rights, and insert the real resources."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aws_cdk import aws_iam as iam

FOLDER: Final = Path(__file__).parents[1] / "policies"
_PLACEHOLDER: Final = re.compile(r"\b[A-Z][A-Z_]{2,}\b")

Resources = Mapping[str, str | list[str]]
"""Placeholder in a policy file → the resource: ``arn:aws:sqs:REGION:ACCOUNT:QUEUE`` → the ARN of the queue."""


def statements(
    role: str, resources: Resources, sids: Collection[str] | None = None, *, second_factor: bool = True
) -> list[dict[str, Any]]:
    """Return the statements of a policy with the resources of the account.

    Args:
        role: the name of the file without its suffix.
        resources: the resources for each placeholder; several if a key has several versions.
        sids: the statements to return; all by default.
        second_factor: True if sessions of the role prove a second factor. If False, no statement requires it.

    Raises:
        LookupError: there is no such statement, or no resource for a placeholder.
    """
    policy = json.loads((FOLDER / f"{role}.json").read_text())
    known = {s["Sid"]: s if second_factor else _without_second_factor(s) for s in policy["Statement"]}
    return [_filled(known[sid], resources) for sid in (known if sids is None else sids)]


def on_key(role: str, key: str, principal_arns: Sequence[str], *, second_factor: bool = True) -> list[dict[str, Any]]:
    """Return the statements of a policy that name a key, in the form of a key policy with principals.

    Args:
        role: the name of the file without its suffix.
        key: the key as written in the files.
        principal_arns: the principals; at least one.
        second_factor: as in `statements`.
    """
    policy = json.loads((FOLDER / f"{role}.json").read_text())
    return [
        {
            **(statement if second_factor else _without_second_factor(statement)),
            "Principal": {"AWS": list(principal_arns)},
            "Resource": "*",
        }
        for statement in policy["Statement"]
        if key in _listed(statement["Resource"])
    ]


def attach(role: iam.Role, found: list[dict[str, Any]]) -> None:
    """Add statements to the inline policy of a role."""
    for statement in found:
        role.add_to_policy(iam.PolicyStatement.from_json(statement))


def _without_second_factor(statement: Mapping[str, Any]) -> dict[str, Any]:
    conditions = {test: keys for test, keys in statement.get("Condition", {}).items() if test != "Bool"}
    without = {name: value for name, value in statement.items() if name != "Condition"}
    return {**without, "Condition": conditions} if conditions else without


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
