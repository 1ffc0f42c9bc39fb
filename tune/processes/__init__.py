"""The processes of a search, on Ray: its session, where they fit, the rollout actors, and the teams of learners."""
