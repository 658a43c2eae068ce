"""Papers' claims and their verdicts."""
