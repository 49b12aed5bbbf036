"""Describe the assets for the UI: groups, columns, partitions and plots."""
