"""Thousands of ModelDeployments on a real control plane: what the operator takes, and how late it decides."""
