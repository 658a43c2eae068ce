"""Protocols that use the harness; it does not know them."""
