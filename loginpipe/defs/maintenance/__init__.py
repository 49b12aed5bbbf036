"""Daily work: partitions, checks that look at whole days, and the pruning of Dagster's storage."""
