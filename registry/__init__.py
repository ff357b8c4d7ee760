"""The light half of mreg: command line, checks, archives and registries. Imports no torch."""

__version__ = "0.1.0"
