"""Backups of a self-hosted warehouse by ``pg_dump``: made, verified, restored.

A backup is two files: the dump, and beside it a manifest that says what the dump must turn out to hold.
"""
