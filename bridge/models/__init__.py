"""Load and save checkpoints; make the tiny base models."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; one sentence with the folder and the remedy."""
