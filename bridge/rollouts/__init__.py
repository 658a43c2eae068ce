"""Sampling answers from a policy: one protocol, one file per engine."""
