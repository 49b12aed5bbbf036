"""A small, fast SQS endpoint for tests and benchmarks: queues, long polls, the in-flight cap, injected errors.

It speaks SQS's JSON protocol, so that boto3 and bare clients use it through ``AWS_ENDPOINT_URL``, and runs as a process
of its own:

    with running_endpoint(in_flight_cap=1_000, seed=7) as endpoint:
        url = endpoint.client.create_queue(QueueName="logins")["QueueUrl"]
        endpoint.send_samples("logins", 100_000, seed=1)
        endpoint.add_fault("drop", "DeleteMessageBatch", effect=True, probability=0.01)
        ...
        endpoint.advance(120)
        assert all(fate.state == "deleted" for fate in endpoint.fates("logins").values())

By hand: ``python -m loginpipe_tests.sqs_endpoint --help``.
"""

from loginpipe_tests.sqs_endpoint.endpoint import Endpoint, EndpointError, Fate, running_endpoint

__all__ = ["Endpoint", "EndpointError", "Fate", "running_endpoint"]
