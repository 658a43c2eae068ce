"""Load and save checkpoints; make the tiny base models."""
