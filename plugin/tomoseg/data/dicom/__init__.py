"""DICOM series, segmentation objects and structure sets.

Importing pydicom takes 0.2 s, so import these modules where they are used.
"""
