"""Days that are over as Parquet files: the asset, its check and its jobs."""
