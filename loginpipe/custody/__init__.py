"""The read side of personal data: opening what was sealed. Nothing the pipeline loads may import it.

A connection is given with no transaction open; what takes one raises DatabaseError as
`loginpipe.postgres.connections.transaction` does.
"""
