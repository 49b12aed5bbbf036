"""The queue: client, receiving, leases, deletion, depth."""
