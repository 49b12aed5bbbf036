-- What the ledger's maintenance moves to its default partition, late replays of messages that old, belongs there.
SELECT
    coalesce(loginpipe.rows_in_default('public.user_logins'), 0),
    coalesce(loginpipe.rows_in_default('loginpipe.ingested_messages'), 0) - (
        SELECT count(*)
        FROM loginpipe.ingested_messages
        WHERE sent_on < %(ledger_begins)s AND tableoid = to_regclass('loginpipe.ingested_messages_default')
    )
