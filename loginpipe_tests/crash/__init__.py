"""Helpers of tests that break a run for real and reconcile the counts afterwards.

`points` defines where a run can be stopped, `run_job` is the process that stops itself there, `runs` starts such
processes, `place` is a queue and a database for them, and `reconciliation` checks that every message is in exactly one
place.
"""
