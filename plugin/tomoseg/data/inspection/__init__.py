"""Look at scans and labelled datasets before anybody works with them."""
