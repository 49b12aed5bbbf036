"""The errors of the endpoint, with SQS's codes in the JSON protocol and in the older query protocol."""

from typing import Final


class Refusal(Exception):  # noqa: N818 - SQS refuses; no error of the program
    """A refusal of a call, or of one entry of a batch.

    Attributes:
        code: the name of the error's shape in the JSON protocol, such as ``QueueDoesNotExist``.
        message: one line.
        status: of the HTTP answer.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    @property
    def kind(self) -> str:
        """Return the error's shape as in ``__type``."""
        return _UNMODELLED.get(self.code, f"com.amazonaws.sqs#{self.code}")

    @property
    def query_error(self) -> str:
        """Return the ``x-amzn-query-error`` header, from which clients take the code of the query protocol."""
        fault = "Sender" if self.status < 500 else "Receiver"
        return f"{_QUERY_CODES.get(self.code, self.code)};{fault}"


_UNMODELLED: Final = {
    "InvalidParameterValue": "com.amazon.coral.service#InvalidParameterValueException",
    "MissingParameter": "com.amazon.coral.service#MissingRequiredParameterException",
    "InternalFailure": "com.amazon.coral.service#InternalFailure",
    "ServiceUnavailable": "com.amazon.coral.service#ServiceUnavailableException",
    "ThrottlingException": "com.amazon.coral.availability#ThrottlingException",
    "InvalidAction": "com.amazon.coral.service#UnknownOperationException",
    "SerializationException": "com.amazon.coral.service#SerializationException",
}
"""Errors that are not in the service's model, by the code that clients show."""

_QUERY_CODES: Final = {
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "SerializationException": "MalformedInput",
    **{
        code: f"AWS.SimpleQueueService.{code}"
        for code in (
            "BatchEntryIdsNotDistinct",
            "BatchRequestTooLong",
            "EmptyBatchRequest",
            "InvalidBatchEntryId",
            "MessageNotInflight",
            "PurgeQueueInProgress",
            "QueueDeletedRecently",
            "TooManyEntriesInBatchRequest",
            "UnsupportedOperation",
        )
    },
}


def no_such_queue() -> Refusal:
    """Refuse because the queue does not exist."""
    return Refusal("QueueDoesNotExist", "The specified queue does not exist.")


def bad_value(parameter: str, value: object, reason: str) -> Refusal:
    """Refuse a parameter with a value that SQS does not accept."""
    return Refusal("InvalidParameterValue", f"Value {value} for parameter {parameter} is invalid. Reason: {reason}")


def missing(parameter: str) -> Refusal:
    """Refuse because a parameter is missing."""
    return Refusal("MissingParameter", f"The request must contain the parameter {parameter}.")


def bad_handle(handle: str) -> Refusal:
    """Refuse a receipt handle that this queue never issued."""
    return Refusal("ReceiptHandleIsInvalid", f'The input receipt handle "{handle}" is not a valid receipt handle.', 404)
