"""Pure. The wire form of facts, tokens and requests, and nothing else."""
