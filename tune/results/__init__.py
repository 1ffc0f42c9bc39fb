"""What a search leaves: the front, its table, its picture."""
