"""Ranking: queries with the documents that are to be put in order, and how good an order is."""
