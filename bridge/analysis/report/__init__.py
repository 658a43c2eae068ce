"""The HTML report, and comparisons in text."""
