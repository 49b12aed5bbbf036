"""The warehouse: connections, the load transaction, migrations, partitions.

Unless it says otherwise, a function that takes a connection wants one with no transaction open, and commits what it
does. One that takes a cursor works in its caller's transaction. What the database refuses becomes a `DatabaseError` at
the end of the transaction. Days are UTC dates.
"""
