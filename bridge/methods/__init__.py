"""Training methods, one file each; :func:`load_method` finds them by file name."""
