"""The programs that are measured beside the pipeline, one process each: ``python -m benchmarks.baselines.NAME``.

They find queue and database where the pipeline does: in LOGINPIPE_QUEUE, LOGINPIPE_DATABASE_URL and AWS' variables.
"""
