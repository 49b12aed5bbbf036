"""Compute how much of the account's quotas an environment uses. `check-quotas.sh` compares the result."""

import sys
from typing import Final

import aws_cdk as cdk

from loginpipe_aws.context import SETTINGS, ContextError, further_queues, size_of_runs
from loginpipe_aws.environments import read_environment
from loginpipe_aws.services import peak_cpu

DEFAULT_MAX_RUNS: Final = 3
"""The default of LOGINPIPE_MAX_RUNS."""

_UNITS_A_VCPU: Final = 1024


def vcpus(app: cdk.App) -> float:
    """Return the maximum Fargate vCPU of the environment whose values the app has.

    Raises:
        ContextError: a value is invalid.
    """
    runs = int(SETTINGS["max_runs"](app.node, "max_runs") or DEFAULT_MAX_RUNS)
    further = further_queues(app.node)
    cpu, _ = size_of_runs(app.node)
    together = runs + sum(queue.max_runs or runs for queue in further)
    return peak_cpu(together, cpu, further=len(further)) / _UNITS_A_VCPU


def main() -> None:
    """Print the vCPU of the environment that the command line names."""
    app = cdk.App(context={"environment": sys.argv[1]})
    try:
        read_environment(app.node)
        sys.stdout.write(f"{vcpus(app):g}\n")
    except ContextError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
