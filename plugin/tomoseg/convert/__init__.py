"""Conversion of bundles to other runtimes."""
