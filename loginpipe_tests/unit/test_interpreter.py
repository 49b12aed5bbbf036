"""Garbage collections and thread switches are rare during a run, and as usual after it."""

import gc
import subprocess
import sys

import pytest

from loginpipe.common.interpreter import tuned_for_a_run


def test_collections_and_changes_of_threads_are_rare_while_it_lasts_and_as_before_afterwards() -> None:
    before, interval = gc.get_threshold(), sys.getswitchinterval()
    with tuned_for_a_run():
        assert gc.isenabled()
        assert gc.get_threshold()[0] > 10 * before[0]
        assert sys.getswitchinterval() > 5 * interval
    assert gc.get_threshold() == before
    assert sys.getswitchinterval() == interval


def test_they_are_as_before_after_a_failure_too() -> None:
    before = gc.get_threshold()
    with pytest.raises(LookupError), tuned_for_a_run():
        raise LookupError
    assert gc.get_threshold() == before


def test_runs_in_threads_may_end_in_any_order() -> None:
    before = gc.get_threshold()
    first, second = tuned_for_a_run(), tuned_for_a_run()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] > 10 * before[0]
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_imports_that_stay_are_not_looked_at_again() -> None:
    program = (
        "import gc, loginpipe.definitions; print(gc.get_freeze_count(), len(gc.get_objects()), *gc.get_threshold())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    frozen, others, *thresholds = map(int, done.stdout.split())
    assert frozen > 100_000 > others
    assert tuple(thresholds) == gc.get_threshold()


def test_a_process_that_has_the_definitions_ends_without_a_last_collection() -> None:
    # The function that is registered first is called last.
    program = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count())); import loginpipe.definitions"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000
