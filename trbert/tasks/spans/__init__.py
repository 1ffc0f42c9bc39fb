"""Questions that are answered by a span of a context: tables, windows, the best span, and how right an answer is."""
