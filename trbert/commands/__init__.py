"""The command `trbert`, with a file for each of its commands."""
