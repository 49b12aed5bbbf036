"""Monitor the pipeline: freshness, anomalies, alerts, doctor and metrics, without Dagster."""
