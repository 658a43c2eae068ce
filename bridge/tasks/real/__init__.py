"""Helpers of the data sets that are read from files: sources, repairs, demonstrations, splits."""
