"""Conversion of bundles to other runtimes, and of other frameworks' models to bundles."""
