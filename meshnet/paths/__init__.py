"""Pure. Which endpoint to use for which peer, and when to try another one."""
