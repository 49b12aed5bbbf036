"""Write personal data: tokens, sealing, and the keys for both. This package cannot open what it seals."""
