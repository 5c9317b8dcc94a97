"""A real Kubernetes control plane on this machine, without Docker: built from Go modules, closed off, gone afterwards.

`python -m tests.cluster.testbed` has one verb to bring it up, one to take it down, and one to do both around a command.
"""
