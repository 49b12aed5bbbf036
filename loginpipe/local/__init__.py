"""An embedded Postgres and AWS endpoint with sample events: to try, to develop, to test. Never in production."""
