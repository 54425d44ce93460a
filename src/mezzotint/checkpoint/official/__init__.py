"""Adapters to the checkpoints of the papers' own code: one family a file, names and layouts only."""
