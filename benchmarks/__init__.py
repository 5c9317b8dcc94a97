"""Benchmarks: each prints a table of what it measured, against peers measured in the same run."""
