"""MONAI Label with tomoseg's bundles: annotate in 3D Slicer or OHIF, train from the annotations, and correct by clicks.

MONAI Label finds an app by the file `main.py` in a folder; `folder` writes one, `server` starts MONAI Label with it.
Modules that import monailabel are imported lazily: it is an extra, `tomoseg[label]`.
"""
