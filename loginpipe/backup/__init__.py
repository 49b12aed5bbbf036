"""Create, verify and restore backups of a self-hosted warehouse with ``pg_dump``.

A backup is two files: the dump, and a manifest that states what the dump must contain.
"""
