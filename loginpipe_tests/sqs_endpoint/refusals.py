"""What the endpoint refuses, with SQS's codes as its JSON protocol gives them and as its older query protocol did."""

from typing import Final


class Refusal(Exception):  # noqa: N818 - SQS refuses; nothing here went wrong
    """A refusal of a call, or of one entry of a batch.

    Attributes:
        code: the name of the error's shape in the JSON protocol, as ``QueueDoesNotExist``.
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
        """The error's shape as ``__type`` names it."""
        return _UNMODELLED.get(self.code, f"com.amazonaws.sqs#{self.code}")

    @property
    def query_error(self) -> str:
        """The ``x-amzn-query-error`` header, from which clients take the code of the query protocol."""
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
"""Errors that the service's model does not have, by the code that clients show."""

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
    """The queue is not there."""
    return Refusal("QueueDoesNotExist", "The specified queue does not exist.")


def bad_value(parameter: str, value: object, reason: str) -> Refusal:
    """A parameter has a value that SQS does not take."""
    return Refusal("InvalidParameterValue", f"Value {value} for parameter {parameter} is invalid. Reason: {reason}")


def missing(parameter: str) -> Refusal:
    """A parameter is not given."""
    return Refusal("MissingParameter", f"The request must contain the parameter {parameter}.")


def bad_handle(handle: str) -> Refusal:
    """A receipt handle that this queue never gave out."""
    return Refusal("ReceiptHandleIsInvalid", f'The input receipt handle "{handle}" is not a valid receipt handle.', 404)
