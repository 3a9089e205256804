"""From a labelled dataset to a bundle: a fingerprint, rules that decide by it, and the files."""
