"""Turn the messages of one batch into an outcome to record: parse, validate, mask and seal them. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from uuid import uuid4

from loginpipe.common.errors import ClearValueError
from loginpipe.logins.extras import SEALED, UnknownFields
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import Envelope
from loginpipe.logins.rejects import Reason
from loginpipe.logins.splitting import Reject, rejected_message, split_batch
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.mask import MaskedLogins, clear_cells, mask_logins, reject_erased, seal_originals, seen_before
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import PlaceholderToken, TokenKeys
from loginpipe.postgres.erasures import Erased


@dataclass(frozen=True)
class Masking:
    """How values are masked, for which keys they are sealed, and what happens to fields outside the contract.

    There are no recipients if sealing is off. ``compat`` is the older scheme that replaces tokens, if one is in force.
    """

    keys: TokenKeys
    recipients: tuple[SealKey, ...] = ()
    compat: CompatMasking | None = None
    unknown_fields: UnknownFields = SEALED
    placeholders: Sequence[PlaceholderToken] = ()


@dataclass(frozen=True)
class Outcome:
    """What to record of a batch.

    Only two parts hold clear values: the bodies of `rejected`, which are not recorded, and `clear_extras`.

    Attributes:
        batch_id: a new UUID; recording the batch a second time changes nothing.
        sealed: the original values of new tokens.
        bodies: message id → sealed body of the rejected message.
        erasures: number of erasures when the logins of erased users were left out.
        started_at_ms: when the first message was received, in milliseconds since 1970.
        unknown_fields: field name outside the contract → number of messages with it.
        seen_before: field → share of logins whose value came before (0 to 1); a placeholder is no value.
        clear_extras: message id → a login's fields outside the contract that are stored in clear, as a JSON object.
        sealed_extras: message id → the other fields outside the contract, sealed.
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

    There is at least one, and their ids are distinct. Logins of erased users from before the erasure are rejected, and
    nothing of them is kept. ``known_tokens`` returns those of the given tokens whose values are already sealed; it is
    called once, with all tokens.

    Raises:
        ClearValueError: a cell of a masked column is not a token.
    """
    split = split_batch(messages, masking.unknown_fields, envelope=envelope)
    split = reject_erased(split, messages, masking.keys, erased.erased_at)
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
        sealed_extras=seal([(i, of.rest) for i, of in split.extras.items() if of.rest], "extras", masking.recipients),
    )


def reject_message(message: Message, reason: Reason, of: str, masking: Masking, erased: Erased) -> Outcome:
    """Return the outcome of a batch of one message that is rejected for a reason outside the message.

    ``of`` is what the reason is about, for example the name of a constraint.
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
    """Raise a `ClearValueError` if a masked cell is neither a token nor a value of the older scheme in force."""
    found = {column: count for column, count in clear_cells(masked, compat).items() if count}
    if found:
        cells = ", ".join(f"{count:,} of {column}" for column, count in found.items())
        raise ClearValueError(f"masked cells do not contain a token ({cells}): nothing was written; report this bug")


def _sealed_bodies(rejected: Sequence[Reject], masking: Masking) -> Sealed:
    # UTF-8 cannot encode lone surrogates, which some endpoints let through.
    bodies = [(r.message_id, r.body.encode("utf-8", "surrogatepass")) for r in rejected if r.body is not None]
    return seal(bodies, "body", masking.recipients)


def _span(messages: Sequence[Message]) -> tuple[int, int]:
    sent = [message.sent_ms for message in messages]
    return min(sent), max(sent)
