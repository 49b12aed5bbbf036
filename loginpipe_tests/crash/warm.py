"""Load modules in the process that runs are forked from. A run then takes half a second instead of three."""

import boto3  # noqa: F401
import dagster as dg

from loginpipe.ingest import aws_lambda  # noqa: F401
from loginpipe.logins.splitting import split_batch
from loginpipe_tests.crash import run_job  # noqa: F401

# Both load more modules on their first use.
with dg.DagsterInstance.ephemeral():
    pass
split_batch([])
