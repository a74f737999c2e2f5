"""Drivers. The only package that talks to the kernel."""
