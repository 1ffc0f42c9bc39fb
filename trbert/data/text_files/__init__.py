"""Files of texts with columns: csv, and columns of words."""
