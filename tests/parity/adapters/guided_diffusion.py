"""openai/guided-diffusion and openai/improved-diffusion."""

from __future__ import annotations
