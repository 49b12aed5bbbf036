"""Daily work on the tables: partitions, and checks that look at whole days."""
