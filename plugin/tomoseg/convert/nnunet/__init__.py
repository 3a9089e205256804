"""Trained nnU-Nets to MONAI bundles."""
