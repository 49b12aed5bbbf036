"""Archive closed days of ``user_logins`` as Parquet files, in a folder or in S3. Like the table, they hold tokens only.

Functions take a connection with no transaction open. Those that use one raise DatabaseError as
`loginpipe.postgres.connections.transaction` does.
"""
