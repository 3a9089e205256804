"""Training task of MONAI Label, and its cases."""
