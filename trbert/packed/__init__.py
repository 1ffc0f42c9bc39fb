"""A packed row of tokens: many documents, no padding."""
