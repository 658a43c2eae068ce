"""ONE RUN: the loop, its state, rollouts, probes, checkpoints. Read this room second."""
