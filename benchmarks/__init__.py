"""What is measured, on demand: nothing here is a test."""
