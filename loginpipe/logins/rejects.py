"""The reasons why a message is rejected: a closed list of codes, to count, filter and alert on."""

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """A reason code; see `MEANINGS`. The first seven are about the whole message (field ``body``), others a field."""

    BODY_DAMAGED = "body_damaged"
    NOT_UNICODE = "not_unicode"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    ENVELOPED = "enveloped"
    ENVELOPE_WITHOUT_OBJECT = "envelope_without_object"
    DATE_TOO_OLD = "date_too_old"

    MISSING = "missing"
    NULL = "null"
    WRONG_TYPE = "wrong_type"
    BLANK = "blank"
    TOO_LONG = "too_long"
    INVALID_CHARACTERS = "invalid_characters"
    INVALID_ADDRESS = "invalid_address"
    ADDRESS_LIST = "address_list"
    """Also an array. Which address is the sender's depends on the proxies."""
    INVALID_VERSION = "invalid_version"
    MISPLACED_VALUE = "misplaced_value"
    REFUSED_BY_DATABASE = "refused_by_database"
    """The field names the constraint."""
    USER_ERASED = "user_erased"


MEANINGS: Mapping[str, str] = {
    Reason.BODY_DAMAGED: "the MD5 of the body did not match, twice in a row",
    Reason.NOT_UNICODE: "lone surrogates: no text that UTF-8 can hold",
    Reason.NOT_JSON: "empty, malformed, or nested more than 1,024 deep",
    Reason.NOT_AN_OBJECT: "JSON, but no object",
    Reason.ENVELOPED: (
        "the envelope of SNS or EventBridge around an event: set LOGINPIPE_ENVELOPE to sns or eventbridge, or send the "
        "event without it, by raw message delivery or an input transformer; an envelope within another is not unwrapped"
    ),
    Reason.ENVELOPE_WITHOUT_OBJECT: "an envelope as LOGINPIPE_ENVELOPE names it, whose content is no JSON object",
    Reason.DATE_TOO_OLD: (
        "the attributes of a replay or redrive date it before the days that are kept: more than a year ago, or "
        "LOGINPIPE_RETENTION_DAYS"
    ),
    Reason.MISSING: "the message does not have the field",
    Reason.NULL: "the field is null",
    Reason.WRONG_TYPE: "the field is neither text nor an integer that may stand for it",
    Reason.BLANK: "nothing in the field that one could see",
    Reason.TOO_LONG: "more characters than the table or the rule allows",
    Reason.INVALID_CHARACTERS: "a NUL character, which Postgres cannot hold",
    Reason.INVALID_ADDRESS: "not an IPv4 or IPv6 address",
    Reason.ADDRESS_LIST: "several addresses where one is needed: send the client's alone",
    Reason.INVALID_VERSION: "not a version that can be stored as a number",
    Reason.MISPLACED_VALUE: "an address, or the login's own device id, where a field is stored in clear",
    Reason.REFUSED_BY_DATABASE: "a constraint or a type of your own user_logins takes no such row",
    Reason.USER_ERASED: "a good login, sent before its user was erased: nothing of it is kept",
}
"""What each reason means, for operators."""

WHOLE_BODY = "body"
"""The field name of reasons about the whole message."""
