"""The three stages of learning: teacher, select and joint. Nothing in this folder imports Ray."""
