"""Freshness and alerts: sensors around the rules in `loginpipe.monitoring`."""
