"""The serving path against its peers: the same model, features, store and keys, on this machine, in one run.

    python -m benchmarks.serving [--store redis|sqlite] [--seconds 5]

prints a table and writes `build/reports/serving.json`. What is compared and why: docs/performance.md.
"""
