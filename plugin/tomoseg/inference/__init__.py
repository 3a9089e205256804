"""Segmentation of one scan: config, transforms, sliding window, and the label map in the scan's grid."""
