"""What a saved plain model consists of: its config, its weights, the names of its labels, and its tokenizer."""
