"""Images and annotations in a folder or in a DICOM archive."""
