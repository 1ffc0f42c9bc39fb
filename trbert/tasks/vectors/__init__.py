"""Vectors of texts: the task of giving each text one, how to compute them, and how well they find texts."""
