"""Shell. The process on every node."""
