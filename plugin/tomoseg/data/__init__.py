"""Scans, label maps, grids, labels and datasets: discovery, reading, checks and writing."""
