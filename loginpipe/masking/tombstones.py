"""Logins of erased users, told by their tombstones: those sent before the erasure are set aside, and nothing is kept.

A tombstone is an HMAC of the user id (`TokenKeys.tombstones`), so that the list of them is no list of users.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import pandas as pd

from loginpipe.logins.rejects import Reason
from loginpipe.logins.splitting import SplitBatch
from loginpipe.masking.tokens import TokenKeys

ERASURES = "erasures"
"""Attribute (`pandas.DataFrame.attrs`) of ``validated_logins``: how many erasures there were when it was made."""


def set_erased_aside(
    split: SplitBatch, messages: pd.DataFrame, keys: TokenKeys, erased_at: Mapping[bytes, datetime]
) -> SplitBatch:
    """Turn the accepted logins of erased users into rejects without a body: those sent before the erasure.

    Args:
        split: what became of a batch.
        messages: `loginpipe.logins.messages.MESSAGE_COLUMNS`, what it was made of.
        keys: the token keys; a tombstone of any version held counts.
        erased_at: tombstone → when the user was erased. A login of a later time is a new one.

    Returns:
        The same where nobody was erased. In ``rejected``, the new rows have None for a body.
    """
    if not erased_at or split.accepted.empty:
        return split
    accepted = split.accepted
    until = _erased_until(accepted["user_id"].unique().tolist(), keys, erased_at)
    of_erased = accepted[accepted["user_id"].isin(until.keys())]
    gone = [sent_at <= until[user] for user, sent_at in zip(of_erased["user_id"], of_erased["sent_at"], strict=True)]
    if not any(gone):
        return split
    aside = of_erased.loc[gone, ["message_id", "sent_at"]]
    rejects = aside.merge(messages[["message_id", "received_at"]], on="message_id").assign(body=None)
    for column, entry in (("reasons", Reason.USER_ERASED.value), ("fields", "user_id")):
        rejects[column] = pd.Series([[entry] for _ in rejects.index], rejects.index, object)
    rejects = rejects[list(split.rejected.columns)]
    rejected = pd.concat([split.rejected, rejects], ignore_index=True) if len(split.rejected) else rejects
    return replace(split, accepted=accepted.drop(index=aside.index).reset_index(drop=True), rejected=rejected)


def _erased_until(users: list[str], keys: TokenKeys, erased_at: Mapping[bytes, datetime]) -> dict[str, datetime]:
    """Return when each erased user was erased, the last time of several; of the others nothing."""
    until: dict[str, datetime] = {}
    for tombstones in keys.tombstones_of_all(users).values():
        for user, tombstone in zip(users, tombstones, strict=True):
            if tombstone in erased_at:
                until[user] = max(until.get(user, erased_at[tombstone]), erased_at[tombstone])
    return until
