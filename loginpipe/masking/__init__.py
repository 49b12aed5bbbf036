"""The write side of personal data: tokens, sealing and the keys for both. It cannot open what it seals."""
