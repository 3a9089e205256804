"""Active learning: acquisition scores and the choice of the next image to annotate."""
