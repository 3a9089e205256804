"""Beside an archive: its series are found and fetched over DICOMweb, segmented, and the results stored in it."""
