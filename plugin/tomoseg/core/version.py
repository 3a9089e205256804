"""The version of tomoseg."""

__version__ = "0.1.0"
