"""A run as one page for the browser: what failed, and what somebody should look at."""
