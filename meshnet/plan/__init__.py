"""Pure. From the view to the desired state of a host, and from two states to operations."""
