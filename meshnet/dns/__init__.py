"""Shell. The zone, the answers, and the process that serves them."""
