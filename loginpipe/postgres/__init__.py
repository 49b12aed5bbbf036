"""The warehouse: connections, the load transaction, migrations, partitions."""
