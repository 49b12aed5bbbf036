"""What names begin with, and what becomes of what holds data."""

from typing import Final

import aws_cdk as cdk
from constructs import IConstruct

from loginpipe_aws.context import installation

KEPT: Final = cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
"""For what holds data: it outlives its stack and its replacement. What a first deployment made that fails is deleted:
it holds nothing yet, and its name would stand in the way of the next."""


def named(scope: IConstruct, form: str) -> str:
    """Return a name of this installation: ``{}-alerts`` is ``loginpipe-alerts`` where no other is chosen."""
    return form.format(installation(scope.node))
