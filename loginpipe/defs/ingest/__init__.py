"""The chain from the queue to the table, one module a stage, with its checks, its job and its sensor."""
