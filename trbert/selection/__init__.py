"""Which tokens are dropped, where, and what decides."""
