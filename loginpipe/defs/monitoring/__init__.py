"""Freshness, dead letters and alerts: a check and a sensor around the rules in `loginpipe.monitoring`."""
