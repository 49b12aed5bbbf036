"""Try out messages: validate, mask and count them in memory. Nothing is kept. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from loginpipe.ingest.process import Masking, require_tokens
from loginpipe.logins.app_versions import decode_version
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import Envelope
from loginpipe.logins.rejects import MEANINGS
from loginpipe.logins.splitting import split_batch
from loginpipe.masking.mask import mask_logins

MAX_SHOWN = 20
"""The maximum number of rejected messages that are listed."""


@dataclass(frozen=True)
class ReasonCount:
    """The number of messages that were rejected for a reason about one field."""

    reason: str
    field: str
    messages: int
    meaning: str


@dataclass(frozen=True)
class RejectedMessage:
    """The id of a message that would be rejected, and each violation as ``field: reason``."""

    message: str
    violations: list[str]


@dataclass(frozen=True)
class Trial:
    """What a run would do with some messages: counts, codes, names and versions, never another value.

    Attributes:
        reasons: the most frequent first.
        rejected_messages: the first `MAX_SHOWN` of them.
        unknown_fields: name → messages that have it.
        app_versions: version as ``2.3.0`` → accepted logins, the newest version first.
        addresses, devices: number of distinct masked values among the accepted logins; None without masking.
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
    """Validate messages with distinct ids as a run does, and mask the good ones. Nothing is sealed.

    If ``masking`` is None, nothing is masked either. Raises `ClearValueError` as a run does.
    """
    split = split_batch(messages, envelope=envelope)
    distinct: dict[str, int] = {}
    if masking is not None:
        masked = mask_logins(split.accepted, masking.keys, masking.compat)
        require_tokens(masked, masking.compat)
        distinct = {name: len(set(cells)) for name, cells in masked.columns.items() if name.startswith("masked_")}
    violations = [list(zip(reject.reasons, reject.fields, strict=True)) for reject in split.rejected]
    found = Counter(chain.from_iterable(violations))
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
            RejectedMessage(reject.message_id, [f"{field}: {reason}" for reason, field in of_reject])
            for reject, of_reject in zip(split.rejected[:MAX_SHOWN], violations, strict=False)
        ],
        unknown_fields=dict(split.unknown_fields.most_common()),
        app_versions={decode_version(number): versions[number] for number in sorted(versions, reverse=True)},
        null_locales=int(split.accepted["locale"].isna().sum()),
        addresses=distinct.get("masked_ip"),
        devices=distinct.get("masked_device_id"),
    )
