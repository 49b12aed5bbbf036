"""Use the queue: client, receiving, leases, deletion, depth."""
