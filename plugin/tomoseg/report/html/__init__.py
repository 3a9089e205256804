"""A run as one page for the browser: failures, and results to look at."""
