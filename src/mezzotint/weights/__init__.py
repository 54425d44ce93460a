"""Models on disk: folders of safetensors files and a ``spec.json``."""
