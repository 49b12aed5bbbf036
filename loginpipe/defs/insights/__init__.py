"""Duplicates and daily counts, computed from the table by day, and the sensor that keeps them up to date."""
