"""The version of this package, and nowhere else."""

__version__ = "0.1.0"
