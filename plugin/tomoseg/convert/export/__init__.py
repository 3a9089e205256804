"""A bundle's network in the files of other runtimes, each checked against PyTorch before it is kept."""
