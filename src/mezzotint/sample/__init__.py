"""Samplers, their grids, and the one sampling loop."""
