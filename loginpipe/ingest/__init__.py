"""What becomes of messages: a batch processed, its outcome recorded, batch after batch. Knows no Dagster."""
