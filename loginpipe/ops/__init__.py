"""Looking after a running installation. Reads, and changes nothing."""
