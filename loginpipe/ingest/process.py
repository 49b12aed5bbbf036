"""One batch, from messages to what is to be recorded of them: parsed, validated, masked and sealed. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from uuid import uuid4

from loginpipe.common.errors import ClearValueError
from loginpipe.logins.extras import SEALED, Extras, UnknownFields
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import Envelope
from loginpipe.logins.rejects import Reason
from loginpipe.logins.splitting import Reject, rejected_message, split_batch
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.mask import MaskedLogins, clear_cells, mask_logins, seal_originals, seen_before, set_erased_aside
from loginpipe.masking.placeholders import PlaceholderToken
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.erasures import Erased


@dataclass(frozen=True)
class Masking:
    """How values are masked, for whom they are sealed, and what becomes of fields that the contract does not know.

    Attributes:
        recipients: the public keys; none where sealing is off.
        compat: the older scheme that is in force instead of tokens, if one is.
        placeholders: the tokens that stand for no value.
    """

    keys: TokenKeys
    recipients: tuple[SealKey, ...] = ()
    compat: CompatMasking | None = None
    unknown_fields: UnknownFields = SEALED
    placeholders: Sequence[PlaceholderToken] = ()


@dataclass(frozen=True)
class Outcome:
    """What is to be recorded of a batch.

    Nothing in it is clear but the bodies of `rejected`, which are not recorded, and the extras that are named to be so.

    Attributes:
        batch_id: a UUID of its own: recording it a second time changes nothing.
        received: messages.
        logins: the accepted ones, masked.
        sealed: what the new tokens stand for.
        rejected: the other messages.
        bodies: their bodies, sealed, by message id.
        erasures: how many there were when the logins of erased users were left out.
        started_at_ms: when the first message was received, in milliseconds since 1970.
        unknown_fields: how many messages carry each field name outside the contract.
        seen_before: share of the logins, by field, whose value came before; a placeholder is none.
        clear_extras: message id → the named fields that a login has beside those of the contract, as a JSON object.
        sealed_extras: the other ones, sealed, by message id.
    """

    batch_id: str
    received: int
    logins: MaskedLogins
    sealed: Sealed
    rejected: Sequence[Reject] = field(repr=False)
    bodies: Sealed
    erasures: int
    started_at_ms: int
    sent_ms: tuple[int, int]
    unknown_fields: Mapping[str, int] = field(default_factory=dict)
    seen_before: Mapping[str, float] = field(default_factory=dict)
    clear_extras: Mapping[str, str] = field(default_factory=dict, repr=False)
    sealed_extras: Sealed = field(default_factory=Sealed)


def process_batch(
    messages: Sequence[Message],
    masking: Masking,
    erased: Erased,
    known_tokens: Callable[[Sequence[str]], Collection[str]],
    *,
    envelope: Envelope = "none",
) -> Outcome:
    """Parse, validate, mask and seal the messages of one batch.

    Args:
        messages: at least one; their ids are distinct.
        masking: the keys.
        erased: who was erased: their logins from before that are rejected, and nothing of them is kept.
        known_tokens: returns those of the tokens whose values are sealed already. Asked once, about all of them.
        envelope: which envelope is removed where one is around an event.

    Raises:
        ClearValueError: a masked column holds something that is no token.
    """
    split = split_batch(messages, masking.unknown_fields, envelope=envelope)
    split = set_erased_aside(split, messages, masking.keys, erased.erased_at)
    masked = mask_logins(split.accepted, masking.keys, masking.compat)
    require_tokens(masked, masking.compat)
    tokens = list(chain.from_iterable(masked.originals.values())) if masking.recipients else []
    known = frozenset(known_tokens(tokens)) if tokens else frozenset()
    return Outcome(
        batch_id=str(uuid4()),
        received=len(messages),
        logins=masked,
        sealed=seal_originals(masked.originals, known, masking.recipients),
        rejected=split.rejected,
        bodies=_sealed_bodies(split.rejected, masking),
        erasures=erased.count,
        started_at_ms=min(message.received_ms for message in messages),
        sent_ms=_span(messages),
        unknown_fields=split.unknown_fields,
        seen_before=seen_before(masked, known, masking.placeholders),
        clear_extras={i: extras.clear.decode() for i, extras in split.extras.items() if extras.clear},
        sealed_extras=_sealed_extras(split.extras, masking),
    )


def reject_message(message: Message, reason: Reason, of: str, masking: Masking, erased: Erased) -> Outcome:
    """Return the outcome of a batch of one message that is rejected for what is not in the message itself.

    Args:
        message: the message.
        reason: why.
        of: what the reason is about, as in the name of a constraint.
        masking: the keys that its body is sealed for.
        erased: who was erased, as the message was processed.
    """
    rejected = [rejected_message(message, [(reason, of)])]
    return Outcome(
        batch_id=str(uuid4()),
        received=1,
        logins=mask_logins(split_batch([]).accepted, masking.keys, masking.compat),
        sealed=Sealed(),
        rejected=rejected,
        bodies=_sealed_bodies(rejected, masking),
        erasures=erased.count,
        started_at_ms=message.received_ms,
        sent_ms=_span([message]),
    )


def require_tokens(masked: MaskedLogins, compat: CompatMasking | None = None) -> None:
    """Refuse a batch in which a cell of a masked column is no token, nor a value of the older scheme in force.

    Raises:
        ClearValueError: names the columns and counts the cells.
    """
    found = {column: count for column, count in clear_cells(masked, compat).items() if count}
    if found:
        cells = ", ".join(f"{count:,} of {column}" for column, count in found.items())
        raise ClearValueError(f"masked cells do not contain a token ({cells}): nothing was written; report this bug")


def _sealed_bodies(rejected: Sequence[Reject], masking: Masking) -> Sealed:
    # Lone surrogates, which some endpoints let through, are in no UTF-8.
    bodies = [(r.message_id, r.body.encode("utf-8", "surrogatepass")) for r in rejected if r.body is not None]
    return seal(bodies, "body", masking.recipients) if masking.recipients and bodies else Sealed()


def _sealed_extras(extras: Mapping[str, Extras], masking: Masking) -> Sealed:
    rest = [(message_id, of_message.rest) for message_id, of_message in extras.items() if of_message.rest]
    return seal(rest, "extras", masking.recipients) if masking.recipients and rest else Sealed()


def _span(messages: Sequence[Message]) -> tuple[int, int]:
    sent = [message.sent_ms for message in messages]
    return min(sent), max(sent)
