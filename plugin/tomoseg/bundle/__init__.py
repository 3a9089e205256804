"""MONAI bundles: metadata and label table, registered names, run options."""
