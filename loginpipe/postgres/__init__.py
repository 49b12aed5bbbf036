"""Access the warehouse: connections, the load transaction, migrations, partitions.

Unless documented otherwise, a function that takes a connection needs one with no transaction open, and commits. A
function that takes a cursor works in the caller's transaction. Errors of the database become a `DatabaseError` at the
end of the transaction. Days are UTC dates.
"""
