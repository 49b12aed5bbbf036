"""Provide what every part needs: settings, secrets, errors, AWS clients, logs, runbook links. Import no other part."""
