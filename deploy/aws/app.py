"""The CDK app: `cdk` runs it, for the environment that `--context environment=…` names."""

import sys

import aws_cdk as cdk

from loginpipe_aws.context import ContextError
from loginpipe_aws.environments import read_environment
from loginpipe_aws.stacks import add_stacks

app = cdk.App()
try:
    read_environment(app.node)
    left_out = add_stacks(app)
except ContextError as error:
    sys.exit(str(error))
for line in left_out:
    print(line, file=sys.stderr)  # noqa: T201 - stdout is the CLI's
app.synth()
