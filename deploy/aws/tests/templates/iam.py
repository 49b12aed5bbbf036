"""The three templates as one account: references resolved, and who may do what, as IAM and KMS decide it.

Read in the way that allows more: an Allow counts whatever its conditions, a Deny only without any, or with one on
``aws:PrincipalArn`` that can be evaluated here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final

ACCOUNT: Final = "111122223333"
ROOT: Final = f"arn:aws:iam::{ACCOUNT}:root"
_PSEUDO: Final = {
    "AWS::Partition": "aws",
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": "eu-central-1",
    "AWS::URLSuffix": "amazonaws.com",
}

Statement = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """One resource of a template, its properties with references resolved."""

    stack: str
    name: str
    type: str
    properties: dict[str, Any]
    attributes: dict[str, Any]
    """What stands beside the properties: DeletionPolicy, DependsOn, Metadata …"""


class Account:
    """All resources of all stacks."""

    def __init__(self, bodies: Mapping[str, dict[str, Any]]) -> None:
        self._bodies = bodies
        self._exports = {
            output["Export"]["Name"]: (stack, output["Value"])
            for stack, body in bodies.items()
            for output in body.get("Outputs", {}).values()
            if "Export" in output
        }

    @cached_property
    def resources(self) -> list[Resource]:
        return [
            Resource(stack, name, raw["Type"], self._resolved(raw.get("Properties", {}), stack), raw)
            for stack, body in self._bodies.items()
            for name, raw in body["Resources"].items()
        ]

    def of(self, kind: str) -> list[Resource]:
        """All resources of a type; there is at least one."""
        found = [resource for resource in self.resources if resource.type == kind]
        assert found, kind
        return found

    def one(self, kind: str, beginning: str) -> Resource:
        (found,) = [resource for resource in self.of(kind) if resource.name.startswith(beginning)]
        return found

    def arn(self, resource: Resource) -> str:
        return f"arn:{resource.name}"

    def _resolved(self, value: Any, stack: str) -> Any:
        if isinstance(value, list):
            return [self._resolved(each, stack) for each in value]
        if not isinstance(value, dict):
            return value
        match list(value.items()):
            case [("Ref", name)]:
                found: Any = self._referred(name, stack)
            case [("Fn::GetAtt", [name, attribute])]:
                found = f"arn:{name}" if attribute == "Arn" else f"{name}.{attribute}"
            case [("Fn::ImportValue", name)]:
                exporting, exported = self._exports[name]
                found = self._resolved(exported, exporting)
            case [("Fn::Join", [separator, parts])]:
                found = separator.join(str(self._resolved(part, stack)) for part in parts)
            case [("Fn::Select" | "Fn::Split" | "Fn::GetAZs", _)]:
                found = str(value)
            case _:
                found = {key: self._resolved(each, stack) for key, each in value.items()}
        return found

    def _referred(self, name: str, stack: str) -> str:
        if name in _PSEUDO:
            return _PSEUDO[name]
        kind = self._bodies[stack]["Resources"].get(name, {}).get("Type")
        # Of these the reference is the ARN; of the rest a name.
        by_arn = {"AWS::SNS::Topic", "AWS::SecretsManager::Secret", "AWS::ECS::TaskDefinition", "AWS::ECS::Service"}
        return f"arn:{name}" if kind in by_arn else name

    @cached_property
    def roles(self) -> list[Resource]:
        return self.of("AWS::IAM::Role")

    def identity(self, role: Resource) -> list[Statement]:
        """All statements that a role has of its own."""
        inline = [policy["PolicyDocument"] for policy in role.properties.get("Policies", [])]
        attached = [
            policy.properties["PolicyDocument"]
            for policy in self.of("AWS::IAM::Policy")
            if role.name in policy.properties["Roles"]
        ]
        return [statement for document in (*inline, *attached) for statement in document["Statement"]]

    def may(self, role: Resource, action: str, resource: Resource) -> bool:
        """Whether a role may do something to a resource: by its own policies, or by the resource's."""
        return allowed(self.identity(role), self.arn(role), action, self.arn(resource), self._of_resource(resource))

    def who_may(self, action: str, resource: Resource) -> set[str]:
        """The roles that may, each by the beginning of its name."""
        return {short(role.name) for role in self.roles if self.may(role, action, resource)}

    def _of_resource(self, resource: Resource) -> list[Statement] | None:
        """A key's policy; None for resources whose account decides by the roles' policies alone."""
        return resource.properties["KeyPolicy"]["Statement"] if resource.type == "AWS::KMS::Key" else None


def short(name: str) -> str:
    """RolesRun398F9AD7 → RolesRun."""
    return name[:-8]


def allowed(
    identity: list[Statement], principal: str, action: str, resource: str, key_policy: list[Statement] | None
) -> bool:
    """Whether IAM, or KMS where there is a key's policy, says yes."""
    own = [s for s in identity if _about(s, action, resource)]
    by_role = any(s["Effect"] == "Allow" for s in own)
    if any(s["Effect"] == "Deny" and _certain(s, principal) for s in own):
        return False
    if key_policy is None:
        return by_role
    of_key = [s for s in key_policy if _about(s, action, None)]
    if any(s["Effect"] == "Deny" and _names(s, principal) and _certain(s, principal) for s in of_key):
        return False
    directly = any(s["Effect"] == "Allow" and _names(s, principal) for s in of_key)
    delegated = any(s["Effect"] == "Allow" and ROOT in _principals(s) for s in of_key)
    return directly or (delegated and by_role)


def _about(statement: Statement, action: str, resource: str | None) -> bool:
    def named(element: str, name: str) -> bool:
        return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in _listed(statement[element]))

    acts = named("Action", action) if "Action" in statement else not named("NotAction", action)
    if resource is None:
        return acts
    return acts and (named("Resource", resource) if "Resource" in statement else not named("NotResource", resource))


def _names(statement: Statement, principal: str) -> bool:
    return any(name in {"*", principal} for name in _principals(statement))


def _principals(statement: Statement) -> Iterator[str]:
    found = statement["Principal"]
    yield from [found] if isinstance(found, str) else _listed(found.get("AWS", []))


def _certain(statement: Statement, principal: str) -> bool:
    """Whether a Deny holds, whatever the circumstances of the call."""
    conditions = statement.get("Condition", {})
    if not conditions:
        return True
    excepted = conditions.get("StringNotEquals", {}).get("aws:PrincipalArn")
    return set(conditions) == {"StringNotEquals"} and excepted is not None and principal not in _listed(excepted)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
