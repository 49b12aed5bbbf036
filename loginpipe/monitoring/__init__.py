"""Is the pipeline well? Freshness, anomalies, alerts, doctor and metrics, without Dagster."""
