"""Where rows come from: files, the Hugging Face hub, or the packaged pages."""
