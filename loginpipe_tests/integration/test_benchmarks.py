"""The benchmarks on their servers. Nothing else runs them between two measurements."""

from benchmarks.ground import running_ground
from benchmarks.plan import QUICK
from benchmarks.trials import Trials


def test_a_run_is_measured_on_the_servers_that_the_benchmarks_start() -> None:
    with running_ground() as ground:
        Trials(ground, QUICK).warm_up()
