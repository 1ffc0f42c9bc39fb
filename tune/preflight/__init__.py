"""What is checked before a search starts: the machine, the places it writes to, and the files that it is given."""
