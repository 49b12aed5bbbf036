"""What the assets show in the UI: groups, columns, partitions and plots."""
