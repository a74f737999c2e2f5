"""The simulated mesh: many nodes and one real coordinator in one process, over fake kernels."""
