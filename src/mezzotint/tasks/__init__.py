"""Uses of trained generators."""
