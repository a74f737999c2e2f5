"""Tests that feed hostile bytes to every parser, guided by coverage where atheris is installed."""
