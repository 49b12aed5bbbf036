"""Why a message is set aside: a closed list of codes, so that they can be counted, filtered and alerted on."""

from enum import StrEnum


class Reason(StrEnum):
    """A reason code. The first four speak of the whole message (field ``body``), the others of one field."""

    BODY_DAMAGED = "body_damaged"
    """The body's MD5 is not the one the queue gave, twice in a row."""
    NOT_UNICODE = "not_unicode"
    """The body holds lone surrogates: it is no text that UTF-8 can carry."""
    NOT_JSON = "not_json"
    """Empty, malformed, or nested deeper than the parser follows (1,024)."""
    NOT_AN_OBJECT = "not_an_object"

    MISSING = "missing"
    NULL = "null"
    WRONG_TYPE = "wrong_type"
    BLANK = "blank"
    """Nothing in it; in most fields also nothing but white space and invisible characters."""
    TOO_LONG = "too_long"
    INVALID_CHARACTERS = "invalid_characters"
    """A NUL character, which Postgres cannot hold."""
    INVALID_ADDRESS = "invalid_address"
    ADDRESS_LIST = "address_list"
    """Several addresses, or an array: which of them is the sender's depends on the proxies between."""
    INVALID_VERSION = "invalid_version"
    REFUSED_BY_DATABASE = "refused_by_database"
    """A constraint or a type of ``user_logins`` takes no such row; the field names the constraint."""
    USER_ERASED = "user_erased"
    """Sent before its user was erased. It was a good login; nothing of it is kept, sealed or not."""


WHOLE_BODY = "body"
"""The field name that goes with reasons about the whole message."""
