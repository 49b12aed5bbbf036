"""Logins of erased users, told by their tombstones: those sent before the erasure are set aside, and nothing is kept.

A tombstone is an HMAC of the user id (`TokenKeys.tombstones`), so that the list of them is no list of users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from loginpipe.logins.messages import Message
from loginpipe.logins.rejects import Reason
from loginpipe.logins.splitting import SplitBatch, rejected_message
from loginpipe.masking.tokens import TokenKeys


def set_erased_aside(
    split: SplitBatch, messages: Sequence[Message], keys: TokenKeys, erased_at: Mapping[bytes, datetime]
) -> SplitBatch:
    """Turn the accepted logins of erased users into rejects without a body: those sent before the erasure.

    Args:
        split: what became of a batch.
        messages: what it was made of.
        keys: the token keys; a tombstone of any version held counts.
        erased_at: tombstone → when the user was erased. A login of a later time is a new one.

    Returns:
        The same where no user of the batch was erased.
    """
    if not erased_at or split.accepted.empty:
        return split
    accepted = split.accepted
    until = _erased_until(accepted["user_id"].unique().tolist(), keys, erased_at)
    of_erased = accepted[accepted["user_id"].isin(until.keys())]
    gone = [sent_at <= until[user] for user, sent_at in zip(of_erased["user_id"], of_erased["sent_at"], strict=True)]
    aside = of_erased.loc[gone, "message_id"]
    if aside.empty:
        return split
    by_id = {message.message_id: message for message in messages}
    faults = [(Reason.USER_ERASED, "user_id")]
    rejects = [rejected_message(by_id[message_id], faults, keep_body=False) for message_id in aside]
    accepted = accepted.drop(index=aside.index).reset_index(drop=True)
    return replace(split, accepted=accepted, rejected=[*split.rejected, *rejects])


def _erased_until(users: list[str], keys: TokenKeys, erased_at: Mapping[bytes, datetime]) -> dict[str, datetime]:
    """Return when each erased user was erased, the last time of several; of the others nothing."""
    until: dict[str, datetime] = {}
    for tombstones in keys.tombstones_of_all(users).values():
        for user, tombstone in zip(users, tombstones, strict=True):
            if tombstone in erased_at:
                until[user] = max(until.get(user, erased_at[tombstone]), erased_at[tombstone])
    return until
