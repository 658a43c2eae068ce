"""Datasets and benchmarks, one family per file; see :mod:`bridge.tasks.base`."""
