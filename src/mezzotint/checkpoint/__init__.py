"""Loading trained models; formats of other projects are under ``official``."""

from mezzotint.checkpoint.loading import fresh, load

__all__ = ["fresh", "load"]
