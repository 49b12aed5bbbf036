"""Process batches of messages and record their outcome. Does not import Dagster."""
