"""Alerts: what is wrong, since when and what to do; one message when it begins, and one when it is over."""
