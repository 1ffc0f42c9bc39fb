"""The command `trbert`: one file for each of its commands."""
