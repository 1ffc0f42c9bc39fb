"""The three stages of learning. No Ray in here."""
