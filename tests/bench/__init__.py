"""Shell. Benchmarks, run by hand as `python -m tests.bench.NAME`; pytest never runs them."""
