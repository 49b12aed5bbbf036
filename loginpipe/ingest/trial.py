"""Messages tried out: validated and masked in memory, and counted. Nothing of them is kept. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loginpipe.ingest.process import Masking, require_tokens
from loginpipe.logins.app_versions import decode_version
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import Envelope
from loginpipe.logins.rejects import MEANINGS
from loginpipe.logins.splitting import Reject, split_batch
from loginpipe.masking.mask import mask_logins

MAX_SHOWN = 20
"""Rejected messages that are named one by one."""


@dataclass(frozen=True)
class ReasonCount:
    """How many messages have a reason about one field."""

    reason: str
    field: str
    messages: int
    meaning: str


@dataclass(frozen=True)
class RejectedMessage:
    """A message that would be rejected, by its id, and each violation as ``field: reason``."""

    message: str
    violations: list[str]


@dataclass(frozen=True)
class Trial:
    """What a run would make of some messages: counts, codes, names and versions, never another value.

    Attributes:
        reasons: the most frequent first.
        rejected_messages: the first `MAX_SHOWN` of them.
        unknown_fields: name → messages that have it.
        app_versions: version as ``2.3.0`` → accepted logins, the newest version first.
        null_locales: accepted logins without a locale.
        addresses, devices: distinct ones among the accepted logins, by their masked values; None where nothing was
            masked.
    """

    received: int
    accepted: int
    rejected: int
    reasons: list[ReasonCount]
    rejected_messages: list[RejectedMessage]
    unknown_fields: Mapping[str, int]
    app_versions: Mapping[str, int]
    null_locales: int
    addresses: int | None
    devices: int | None


def try_out(messages: Sequence[Message], masking: Masking | None, *, envelope: Envelope = "none") -> Trial:
    """Validate messages as a run does, and mask those that are good.

    Args:
        messages: their ids are distinct.
        masking: the keys; None to leave out the masking. Nothing is sealed.
        envelope: which envelope is removed where one is around an event.

    Raises:
        ClearValueError: a masked column holds something that is no token.
    """
    split = split_batch(messages, envelope=envelope)
    distinct: dict[str, int] = {}
    if masking is not None:
        masked = mask_logins(split.accepted, masking.keys, masking.compat)
        require_tokens(masked, masking.compat)
        distinct = {name: len(set(cells)) for name, cells in masked.columns.items() if name.startswith("masked_")}
    found = Counter(violation for reject in split.rejected for violation in _violations(reject))
    versions = Counter(split.accepted["app_version"].tolist())
    return Trial(
        received=len(messages),
        accepted=len(split.accepted),
        rejected=len(split.rejected),
        reasons=[
            ReasonCount(reason, field, messages, MEANINGS.get(reason, ""))
            for (reason, field), messages in found.most_common()
        ],
        rejected_messages=[
            RejectedMessage(reject.message_id, [f"{field}: {reason}" for reason, field in _violations(reject)])
            for reject in split.rejected[:MAX_SHOWN]
        ],
        unknown_fields=dict(split.unknown_fields.most_common()),
        app_versions={decode_version(number): versions[number] for number in sorted(versions, reverse=True)},
        null_locales=int(split.accepted["locale"].isna().sum()),
        addresses=distinct.get("masked_ip"),
        devices=distinct.get("masked_device_id"),
    )


def _violations(reject: Reject) -> list[tuple[str, str]]:
    """Return reason and field of each."""
    return list(zip(reject.reasons, reject.fields, strict=True))
