"""Errors, atomic files, suppressed warnings and the version."""
