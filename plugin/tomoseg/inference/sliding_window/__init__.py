"""Sliding-window inference slab by slab, with labels computed directly in the scan's grid."""
