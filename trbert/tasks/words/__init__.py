"""Words with tags: how they are read from tables, how they become documents, and which entities their tags mark."""
