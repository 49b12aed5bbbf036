"""Daily work: partitions, checks of whole days, and the pruning of Dagster's storage."""
