"""Protocols that measure SFT and RL instead of adding a loss."""
