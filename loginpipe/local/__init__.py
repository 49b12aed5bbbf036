"""Run an embedded Postgres and AWS endpoint with sample events, to try, develop and test. Never for production."""
