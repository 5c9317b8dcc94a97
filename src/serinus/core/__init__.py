"""Decides. Pure functions and values: standard library, numpy and pydantic only.

No I/O, clock, randomness or environment lives here; `now`, seeds and all evidence are arguments.
"""
