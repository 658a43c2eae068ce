"""Run folders to tidy tables, and the state of a grid."""
