"""The programs that are measured besides the pipeline, one process each: ``python -m benchmarks.baselines.NAME``.

They read the same variables as the pipeline: LOGINPIPE_QUEUE, LOGINPIPE_DATABASE_URL and those of AWS.
"""
