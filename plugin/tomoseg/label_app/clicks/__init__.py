"""Interactive correction of segmentations by clicks."""
