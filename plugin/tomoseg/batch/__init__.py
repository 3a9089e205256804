"""Batches of scans: cases, executors on this machine and on Ray, and output files."""
