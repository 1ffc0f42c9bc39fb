"""The results of a search: the front, its table, its picture, and the report that makes them."""
