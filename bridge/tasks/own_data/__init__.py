"""What the family ``own`` is made of: sources, rows, gold answers."""
