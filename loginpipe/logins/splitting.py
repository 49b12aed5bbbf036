"""Split a batch of messages into valid logins and rejects. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from loginpipe.logins.app_versions import encode_version, loses_text
from loginpipe.logins.canonical import PLACEHOLDERS, canonical_address, is_no_address
from loginpipe.logins.extras import SEALED, Extras, UnknownFields, count_unknown_fields
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import LOGIN_FIELDS, Envelope, event_text, field_values, login_columns, parse_body
from loginpipe.logins.rejects import WHOLE_BODY, Reason
from loginpipe.logins.schema import PARSED_LOGINS_SCHEMA, RULES

_KNOWN_FIELDS = frozenset(LOGIN_FIELDS)
# A device id and a device type that are both "unknown" identify no one.
_NO_VALUES = frozenset(map(str.casefold, PLACEHOLDERS))

_UTC = pd.DatetimeTZDtype("ms", "UTC")

_Violations = list[tuple[Reason, str]]


class Reject(NamedTuple):
    """A rejected message. ``repr`` shows no body.

    Attributes:
        body: as received, in clear, to be sealed; None if it must not be kept.
        reasons: reason codes, one per violation.
        fields: the field of each reason.
    """

    message_id: str
    body: str | None
    sent_ms: int
    received_ms: int
    reasons: list[str]
    fields: list[str]

    def __repr__(self) -> str:
        return f"Reject({self.message_id}, {self.reasons})"


@dataclass(frozen=True)
class SplitBatch:
    """The result of splitting a batch.

    Attributes:
        accepted: `VALIDATED_LOGINS_SCHEMA`; personal data in clear.
        rejected: the other messages.
        unknown_fields: field name outside the contract → number of JSON objects with it.
        extras: message id → the kept fields outside the contract, for accepted messages.
    """

    accepted: pd.DataFrame = field(repr=False)
    rejected: Sequence[Reject] = field(repr=False)
    unknown_fields: Counter[str]
    extras: Mapping[str, Extras] = field(default_factory=dict, repr=False)


def count_reasons(rejected: Iterable[Reject]) -> Counter[str]:
    """Count rejected messages by reason; a message with two reasons counts for both."""
    return Counter(reason for reject in rejected for reason in set(reject.reasons))


def rejected_message(message: Message, violations: Sequence[tuple[str, str]], *, keep_body: bool = True) -> Reject:
    """Return the reject of a message.

    ``violations`` are pairs of reason and field. Without ``keep_body`` the body is not kept, sealed or not.
    """
    reasons, fields = [str(reason) for reason, _ in violations], [name for _, name in violations]
    body = message.body if keep_body else None
    return Reject(message.message_id, body, message.sent_ms, message.received_ms, reasons, fields)


def split_batch(
    messages: Sequence[Message], unknown: UnknownFields = SEALED, *, envelope: Envelope = "none"
) -> SplitBatch:
    """Parse and validate messages with distinct ids; each ends in exactly one of the two parts.

    ``unknown`` decides what happens to fields outside the contract; ``envelope`` is removed from events that have it.
    """
    # The values are taken out at once, because keeping all parsed objects would need more memory than the rest.
    rows: list[tuple[Any, ...]] = []
    parsed_messages: list[Message] = []
    unknown_names: Counter[tuple[str, ...]] = Counter()
    extras: dict[str, Extras] = {}
    rejected: list[Reject] = []
    for message in messages:
        if message.body_intact and not message.too_old:
            parsed = parse_body(message.body, envelope)
        else:
            parsed = Reason.DATE_TOO_OLD if message.body_intact else Reason.BODY_DAMAGED
        if isinstance(parsed, Reason):
            rejected.append(rejected_message(message, [(parsed, WHOLE_BODY)]))
            continue
        rows.append(field_values(parsed))
        parsed_messages.append(message)
        if not _KNOWN_FIELDS.issuperset(parsed):
            fields = {name: value for name, value in parsed.items() if name not in _KNOWN_FIELDS}
            unknown_names[tuple(fields)] += 1
            if of_message := unknown.parted(fields, event_text(message.body, envelope)):
                extras[message.message_id] = of_message
    logins, violations = _validated(parsed_messages, rows)
    for place, of_login in sorted(violations.items()):
        message = parsed_messages[place]
        rejected.append(rejected_message(message, of_login))
        # The sealed body holds them.
        extras.pop(message.message_id, None)
    _add_versions(extras, logins, unknown)
    versions = [encode_version(text) for text in logins["app_version"].tolist()]
    accepted = logins.assign(app_version=pd.Series(versions, logins.index, "int32"))
    return SplitBatch(accepted, rejected, count_unknown_fields(unknown_names), extras)


def _add_versions(extras: dict[str, Extras], logins: pd.DataFrame, unknown: UnknownFields) -> None:
    """Add the text of each version whose integer loses a part of it; usually there is none."""
    texts = logins["app_version"].tolist()
    longer = set(filter(loses_text, set(texts)))
    if not longer:
        return
    for message_id, text in zip(logins["message_id"], texts, strict=True):
        if text in longer and (added := unknown.with_version(extras.get(message_id), text)):
            extras[message_id] = added


def _validated(
    messages: Sequence[Message], rows: Sequence[tuple[Any, ...]]
) -> tuple[pd.DataFrame, dict[int, _Violations]]:
    """Return the rows that the schema accepts, with versions as text, and the violations of the others by place."""
    logins = pd.DataFrame(
        {
            "message_id": pd.Series([m.message_id for m in messages], dtype=object),
            "sent_at": pd.array(np.array([m.sent_ms for m in messages], "datetime64[ms]"), dtype=_UTC),
            **{name: pd.Series(list(cells), dtype=object) for name, cells in login_columns(rows).items()},
        }
    )
    violations: dict[int, _Violations] = {}
    cases = _failures(logins)
    if cases is not None:
        # In the order of the contract, regardless of the other messages.
        for name, rule in RULES.items():
            places = cases.loc[cases["column"] == name, "index"].dropna()
            for place, cell in logins.loc[places, name].items():
                if (reason := rule.violation(cell)) is not None:
                    violations.setdefault(int(str(place)), []).append((reason, name))
        logins = logins.drop(index=list(violations)).reset_index(drop=True)
        # Validated again, because violations that a lazy validation misses must not pass.
        if (rest := _failures(logins)) is not None:
            found = sorted({f"{column}: {check}" for column, check in rest[["column", "check"]].values})
            raise ValueError(
                f"rows that passed validation fail it the second time ({'; '.join(found)}): this is a bug, report it"
            )
    if misplaced := _misplaced(logins):
        # Converted to places among all messages, because the rejected ones are already dropped here.
        of_all = [place for place in range(len(messages)) if place not in violations]
        violations |= {of_all[place]: of_login for place, of_login in misplaced.items()}
        logins = logins.drop(index=list(misplaced)).reset_index(drop=True)
    return logins, violations


def _misplaced(logins: pd.DataFrame) -> dict[int, _Violations]:
    """Return by place the logins with their own address or device id in a field stored in clear.

    Usually there are none, so whole columns are checked first.
    """
    columns = {name: logins[name].tolist() for name in ("user_id", "device_type", "locale", "ip", "device_id")}
    users, devices = columns["user_id"], _bare_all(columns["device_id"])
    few = {_bare(cell) for name in ("device_type", "locale") for cell in set(columns[name])}
    violations: dict[int, _Violations] = {}
    if any(map(eq, _bare_all(users), devices)) or not few.isdisjoint(devices):
        for name in ("user_id", "device_type", "locale"):
            for place, (cell, device) in enumerate(zip(columns[name], devices, strict=True)):
                if _bare(cell) == device and device not in _NO_VALUES:
                    violations.setdefault(place, []).append((Reason.MISPLACED_VALUE, name))
    # An address in any of its spellings. In the other fields stored in clear, any address is a violation.
    together = "".join(users)
    if ":" in together or "." in together:
        for place, (user, ip) in enumerate(zip(users, columns["ip"], strict=True)):
            if not is_no_address(user) and canonical_address(user) == canonical_address(ip):
                violations.setdefault(place, []).append((Reason.MISPLACED_VALUE, "user_id"))
    return violations


def _bare(cell: str | None) -> str:
    return (cell or "").strip().casefold()


def _bare_all(texts: Sequence[str]) -> list[str]:
    """Return `_bare` of each text, none of which is blank; all at once if they contain no white space."""
    together = " ".join(texts).casefold().split()
    return together if len(together) == len(texts) else [*map(_bare, texts)]


def _failures(logins: pd.DataFrame) -> "pd.DataFrame | None":
    """Return pandera's failure cases, or None. They hold values, so they must not leave this module."""
    try:
        # Both are set, because pandera's environment variables could switch validation off for the whole process.
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            PARSED_LOGINS_SCHEMA.validate(logins, lazy=True, inplace=True)
    except SchemaErrors as error:
        cases: pd.DataFrame = error.failure_cases
        return cases
    return None
