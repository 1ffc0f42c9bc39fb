"""Learning on Ray: the three stages of learning, a trial, a search of many trials, its front, and picking a model."""
