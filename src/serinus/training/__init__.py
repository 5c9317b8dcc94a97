"""Use cases of the pipeline, a module a step. What a KFP component calls; nothing here knows of KFP."""
