"""Tasks of MONAI Label that segment."""
