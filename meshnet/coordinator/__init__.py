"""Shell. The coordination server."""
