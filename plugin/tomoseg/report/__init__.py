"""Records of a run, label statistics, previews and the HTML report."""
