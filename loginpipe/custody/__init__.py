"""Read personal data: open what was sealed. Nothing that the pipeline loads may import this package.

Functions take a connection with no transaction open. Those that use one raise DatabaseError as
`loginpipe.postgres.connections.transaction` does.
"""
