"""A batch on Ray: a segmenter for each GPU, or for each share of the CPUs, on one machine or on many."""
