"""The functions that the stage table times: one list, to be kept up to date with the pipeline.

Only what is called a few times a batch, or once every ten messages: a call that is timed takes a few microseconds more,
which would show in what is called for every message. Functions may call one another: each one's time is what is left
without the others'.
"""

from typing import Final

FUNCTIONS: Final = {
    # Receiving; `receive_message` is called by the receiving threads.
    "loginpipe.sqs.receiver:receive_batch": "start and wait for the receivers",
    "loginpipe.sqs.receiver:_Bite.receive": "read answers, check MD5, keep messages",
    "loginpipe.sqs.lean_client:_LeanClient.receive_message": "receive calls",
    "loginpipe.sqs.leases:LeaseKeeper.add": "begin leases",
    "loginpipe.logins.messages:messages_frame": "messages as a frame",
    # Judging.
    "loginpipe.logins.splitting:split_batch": "parse JSON, take apart",
    "loginpipe.logins.parsing:login_fields": "fields as a frame",
    "loginpipe.logins.splitting:_field_faults": "pandera, field by field",
    "loginpipe.logins.splitting:_validated": "pandera, the whole",
    "loginpipe.logins.drift:count_unknown_fields": "unknown fields",
    "loginpipe.masking.mask:set_erased_aside": "erased users",
    "loginpipe.postgres.rejects:record_rejects": "record rejects, open the books",
    # Masking.
    "loginpipe.masking.mask:mask_logins": "canonical values, masked frame",
    "loginpipe.masking.tokens:TokenKeys.tokens": "tokens",
    "loginpipe.postgres.vault:known_tokens": "ask the vault what it knows",
    "loginpipe.masking.sealing:seal": "seal",
    "loginpipe.masking.mask:seal_originals": "what is to be sealed",
    "loginpipe.masking.mask:seen_before": "share seen before",
    "loginpipe.masking.mask:clear_cells": "check that only tokens are left",
    # Loading and deleting; `delete_message_batch` is called by the deleting threads.
    "loginpipe.postgres.load:load_logins": "the load transaction but for what is below",
    "loginpipe.postgres.copy:copy_rows": "rows as text, COPY",
    "loginpipe.postgres.load:_insert_new": "wait for the INSERT",
    "loginpipe.postgres.vault:insert_sealed": "insert into the vault but for COPY",
    "loginpipe.sqs.deletion:delete_messages": "start and wait for the deleters",
    "loginpipe.sqs.deletion:_delete_ten": "make and read delete calls",
    "loginpipe.sqs.lean_client:_LeanClient.delete_message_batch": "delete calls",
    "loginpipe.sqs.leases:LeaseKeeper.handles": "look receipt handles up",
    "loginpipe.sqs.leases:LeaseKeeper.settle": "end leases",
}
"""``module:attribute`` → what the table calls it."""
