"""From a whole scan to the crops that a bundle was trained on, and back.

A bundle declares in its metadata which boxes of a template hold its structures. The template is registered to the scan,
each box is cut out along the axes of the head, segmented by itself, and its labels are brought into the scan's own
grid.
"""
