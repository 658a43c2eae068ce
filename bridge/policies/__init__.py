"""Policies: Hugging Face checkpoints, adapters, shadow weights and their log-probabilities."""
