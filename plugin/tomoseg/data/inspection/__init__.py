"""Inspect scans and labelled datasets before they are used."""
