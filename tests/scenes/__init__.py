"""Shell. Tests that play in network namespaces of their own, as root."""
