"""Write complete days as Parquet files: the asset, its check and its jobs."""
