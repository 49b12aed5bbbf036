"""The prefix of names, and the removal policy of resources that hold data."""

from typing import Final

import aws_cdk as cdk
from constructs import IConstruct

from loginpipe_aws.context import installation

KEPT: Final = cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
"""For resources that hold data: they outlive their stack and their replacement.

If a first deployment fails, its new resources are deleted, because they are empty and their names would block the next
deployment.
"""


def named(scope: IConstruct, form: str) -> str:
    """Return a name of this installation: ``{}-alerts`` is ``loginpipe-alerts`` with the default installation."""
    return form.format(installation(scope.node))
