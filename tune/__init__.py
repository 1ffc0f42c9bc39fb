"""Learning, on Ray: the three stages, one trial, many trials, the front and the pick."""
