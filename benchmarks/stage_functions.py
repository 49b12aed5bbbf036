"""List the functions that the stage table times. Update the list with the pipeline.

It contains only functions that are called a few times per batch or once per ten messages. Timing adds a few
microseconds to a call, which would distort functions that are called for every message. If listed functions call one
another, the time of each excludes that of the others.
"""

from typing import Final

STAGES: Final = {
    # In the receiving threads, except `next_batch`.
    "receive": {
        "loginpipe.sqs.receiver:Receiver._receive_and_pause": "pace the receivers",
        "loginpipe.sqs.receiver:Receiver._ask_for": "wait for room in the batch",
        "loginpipe.sqs.receiver:Receiver._receive": "read answers, check MD5",
        "loginpipe.sqs.receiver:Receiver._keep": "keep messages",
        "loginpipe.sqs.lean_client:_LeanClient.receive_message": "receive calls",
        "loginpipe.sqs.leases:LeaseKeeper.add": "begin leases",
        "loginpipe.sqs.receiver:Receiver.next_batch": "wait for the next batch",
    },
    "process_batch": {
        "loginpipe.ingest.process:process_batch": "put the outcome together",
        "loginpipe.logins.splitting:split_batch": "parse JSON, take apart",
        "loginpipe.logins.parsing:login_columns": "fields as columns",
        "loginpipe.logins.splitting:_validated": "columns as a frame",
        "loginpipe.logins.splitting:_failures": "pandera",
        "loginpipe.logins.extras:count_unknown_fields": "unknown fields",
        "loginpipe.masking.mask:reject_erased": "erased users",
        "loginpipe.masking.mask:mask_logins": "canonical values, masked columns",
        "loginpipe.masking.tokens:TokenKeys.tokens": "tokens",
        "loginpipe.masking.mask:clear_cells": "check that only tokens are left",
        "loginpipe.postgres.vault:known_tokens": "ask the vault what it knows",
        "loginpipe.masking.mask:seal_originals": "what is to be sealed",
        "loginpipe.masking.sealing:seal": "seal",
        "loginpipe.masking.mask:seen_before": "share seen before",
    },
    "record_batch": {
        "loginpipe.ingest.record:record_batch": "the transaction but for what is below",
        "loginpipe.postgres.load:insert_rejects": "insert rejects but for COPY",
        "loginpipe.postgres.load:insert_logins": "insert logins but for COPY",
        "loginpipe.postgres.copy:copy_rows": "rows as text, COPY",
        "loginpipe.postgres.vault:insert_sealed": "insert into the vault but for COPY",
        "loginpipe.postgres.vault:insert_data_keys": "insert data keys",
        "loginpipe.postgres.batches:finish_batches": "what became of earlier deletes",
        "loginpipe.ingest.totals:RunTotals.add": "sums of the run",
    },
    # In the deleting threads.
    "delete": {
        "loginpipe.sqs.deletion:delete_messages": "start and wait for the deleters",
        "loginpipe.sqs.deletion:delete_ten": "make and read delete calls",
        "loginpipe.sqs.lean_client:_LeanClient.delete_message_batch": "delete calls",
        "loginpipe.sqs.leases:LeaseKeeper.handles": "look receipt handles up",
        "loginpipe.sqs.leases:LeaseKeeper.settle": "end leases",
    },
}
"""Stage → ``module:attribute`` → its label in the table. Labels are unique."""

FUNCTIONS: Final = {path: label for functions in STAGES.values() for path, label in functions.items()}
"""``module:attribute`` → its label in the table."""
