"""Report freshness and dead letters and send alerts: checks and a sensor around `loginpipe.monitoring`."""
