"""A batch of messages into good logins and rejects: the decision, without any of its consequences."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from loginpipe.logins.app_versions import encode_version
from loginpipe.logins.drift import count_unknown_fields
from loginpipe.logins.parsing import LOGIN_FIELDS, field_values, login_fields, parse_body
from loginpipe.logins.rejects import WHOLE_BODY, Reason
from loginpipe.logins.schema import LOGIN_FIELDS_SCHEMA, RULES, VALIDATED_LOGINS_SCHEMA

_KNOWN_FIELDS = frozenset(LOGIN_FIELDS)

# Said with each validation: pandera's environment variables could switch it off for the whole process.
_VALIDATE: dict[str, Any] = {
    "validation_enabled": True,
    "validation_depth": ValidationDepth.SCHEMA_AND_DATA,
}

Faults = dict[int, list[tuple[Reason, str]]]
"""By position of the message in its batch: reason and field name of each fault."""


@dataclass(frozen=True)
class SplitBatch:
    """What became of a batch.

    Attributes:
        accepted: `VALIDATED_LOGINS_SCHEMA`; personal data in clear.
        rejected: columns message_id, body (object), sent_at, received_at (datetime64[ms, UTC]), reasons and fields
            (object: lists of equal length, element by element); the body in clear.
        unknown_fields: how many of the messages that are JSON objects carry each field name outside the contract.
    """

    accepted: pd.DataFrame = field(repr=False)
    rejected: pd.DataFrame = field(repr=False)
    unknown_fields: Counter[str]

    def reason_counts(self) -> dict[str, int]:
        """Count the rejected messages by reason; one with two reasons counts under both."""
        return dict(Counter(reason for reasons in self.rejected["reasons"] for reason in set(reasons)).most_common())


def split_batch(messages: pd.DataFrame) -> SplitBatch:
    """Parse and judge every message; each ends in exactly one of the two frames.

    Args:
        messages: `loginpipe.logins.messages.MESSAGE_COLUMNS`, one row a message, message ids distinct.
    """
    messages = messages.reset_index(drop=True)
    # An event's values are taken out at once: held together, the objects would be larger than all else of the batch.
    rows: dict[int, tuple[Any, ...]] = {}
    unusual: list[dict[str, Any]] = []
    faults: Faults = {}
    for position, (body, intact) in enumerate(zip(messages["body"], messages["body_intact"], strict=True)):
        parsed = parse_body(body) if intact else Reason.BODY_DAMAGED
        if isinstance(parsed, Reason):
            faults[position] = [(parsed, WHOLE_BODY)]
        else:
            rows[position] = field_values(parsed)
            if not _KNOWN_FIELDS.issuperset(parsed):
                unusual.append(parsed)
    fields = login_fields(list(rows.values())).set_index(pd.Index(list(rows), dtype="int64"))
    field_faults = _field_faults(fields)
    faults |= field_faults
    rejected = messages.loc[sorted(faults), ["message_id", "body", "sent_at", "received_at"]]
    return SplitBatch(
        accepted=_validated(messages, fields.drop(index=list(field_faults)) if field_faults else fields),
        rejected=rejected.assign(
            reasons=pd.Series(
                [[reason.value for reason, _ in faults[i]] for i in rejected.index], rejected.index, object
            ),
            fields=pd.Series([[name for _, name in faults[i]] for i in rejected.index], rejected.index, object),
        ).reset_index(drop=True),
        unknown_fields=count_unknown_fields(unusual, _KNOWN_FIELDS),
    )


def _field_faults(fields: pd.DataFrame) -> Faults:
    try:
        with config_context(**_VALIDATE):
            LOGIN_FIELDS_SCHEMA.validate(fields, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
    else:
        return {}
    faults: Faults = {}
    # In the order of the contract, whatever else is in the batch.
    for name, rule in RULES.items():
        positions = cases.loc[cases["column"] == name, "index"]
        for position, cell in fields.loc[positions, name].items():
            if (reason := rule.fault(cell)) is not None:
                faults.setdefault(int(position), []).append((reason, name))
    return faults


def _validated(messages: pd.DataFrame, fields: pd.DataFrame) -> pd.DataFrame:
    accepted = messages.loc[fields.index, ["message_id", "sent_at"]].join(fields)
    accepted["app_version"] = pd.Series([encode_version(text) for text in fields["app_version"]], fields.index, "int32")
    accepted = accepted.reset_index(drop=True)[list(VALIDATED_LOGINS_SCHEMA.columns)]
    try:
        # Validated again as a whole: what a lazy validation under-reports must not go further.
        with config_context(**_VALIDATE):
            return VALIDATED_LOGINS_SCHEMA.validate(accepted, lazy=True)
    except SchemaErrors as error:
        places = sorted({f"{column}: {check}" for column, check in error.failure_cases[["column", "check"]].values})
    raise ValueError(f"rows that passed validation fail it as a whole ({'; '.join(places)}): this is a bug, report it")
