"""Compute duplicates and daily counts from the table by day, and keep them up to date by a sensor."""
