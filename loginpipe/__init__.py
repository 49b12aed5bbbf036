"""Login events from an SQS queue into the Postgres table ``user_logins``, with the personal data masked."""
