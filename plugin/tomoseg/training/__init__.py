"""A bundle's own training, run by MONAI: resumed exactly, saved atomically, shown to people."""
