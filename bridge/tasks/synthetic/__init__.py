"""Helpers of the data sets that are generated from a seed."""
