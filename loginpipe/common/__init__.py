"""What every part needs: settings, secrets, errors, AWS sessions, logs, links to the runbook. Imports no other part."""
