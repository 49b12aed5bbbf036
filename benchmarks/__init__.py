"""Measurements to run on demand. Nothing here is a test."""
