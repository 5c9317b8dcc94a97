"""The cluster's edge, thin: what Kubernetes tells becomes a look of the same control loop that a laptop runs."""
