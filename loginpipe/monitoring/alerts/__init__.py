"""Telling somebody: what is wrong, since when, what to do; once when it begins, and once when it is over."""
