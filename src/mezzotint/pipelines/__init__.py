"""Pipelines: stages strung together, and the models that they make."""
