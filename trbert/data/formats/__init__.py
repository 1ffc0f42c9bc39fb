"""Files in the formats of certain tasks: one module for each format."""
