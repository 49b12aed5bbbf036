"""What tests need that break a run for real, and balance the counts afterwards.

`points` says where a run can be stopped, `run_job` is the process that stops itself there, `runs` starts such
processes, `place` is a queue and a database for them, and `counts` tells whether every message is somewhere, once.
"""
