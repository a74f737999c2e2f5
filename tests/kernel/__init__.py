"""Scenes that need WireGuard in the kernel: here where the host has it, else in a guest kernel."""
