"""Send alerts: what is wrong, since when, and what to do. Each is sent when it begins and when it is over."""
