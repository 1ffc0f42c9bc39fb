"""The speed report: one model, run in several ways that are timed in turns."""
