"""Everything that Dagster sees, by subject: the only place that imports Dagster, thin shells around the packages."""
