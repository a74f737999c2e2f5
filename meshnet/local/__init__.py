"""Pure. From any program on this machine to its agent: where it listens, how it is asked."""
