"""A local proxy that keeps an agent's message stream free of gaps and duplicates."""

__version__ = "0.1.0"
