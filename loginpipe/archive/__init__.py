"""The archive: closed days of ``user_logins`` as Parquet files, in a folder or in S3. Tokens only, as in the table."""
