"""Kubeflow Pipelines pipelines: wiring of `components` only. The same function runs on a laptop and on a cluster."""
