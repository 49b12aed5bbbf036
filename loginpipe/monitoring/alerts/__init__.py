"""Alerts: what is wrong, since when, and what to do. Each is sent once when it begins and once when it is over."""
