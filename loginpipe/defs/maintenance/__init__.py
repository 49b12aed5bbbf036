"""Maintain partitions, check whole days, and prune Dagster's storage, once a day."""
