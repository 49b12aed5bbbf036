"""A small, fast SQS endpoint for tests and benchmarks: queues, long polls, the in-flight cap, faults on demand."""

from loginpipe_tests.sqs_endpoint.endpoint import Endpoint, EndpointError, Fate, running_endpoint

__all__ = ["Endpoint", "EndpointError", "Fate", "running_endpoint"]
