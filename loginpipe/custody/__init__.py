"""The read side of personal data: opening what was sealed. Nothing the pipeline loads may import it."""
