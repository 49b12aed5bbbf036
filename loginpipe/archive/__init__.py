"""The archive: closed days of ``user_logins`` as Parquet files, in a folder or in S3. Tokens only, as in the table.

A connection is given with no transaction open; what takes one raises DatabaseError as
`loginpipe.postgres.connections.transaction` does.
"""
