"""One Kubeflow Pipelines component a file: a few lines that call `serinus.training`. No logic lives here.

A component's function is sent to its container as source, so everything it uses is imported inside it, and its files
have no `from __future__ import annotations`: KFP reads the annotations. Paths to the spec and the platform's addresses
are arguments, as a container knows neither. So are digests of code and data, which bodies seldom use: KFP's cache
compares arguments, and would otherwise not notice changed code.
"""

import os

IMAGE = os.environ.get("SERINUS_PIPELINE_IMAGE", "serinus-pipeline:latest")
"""Container image with Serinus and the project; `training_pipeline` can be given another."""
