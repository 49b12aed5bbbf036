"""Everything that Dagster loads, by subject: the only folder that imports Dagster, thin shells around the packages."""
