"""Pure. Stand-ins in memory, each of which passes the contract of what it stands for."""
