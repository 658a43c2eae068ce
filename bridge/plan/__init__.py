"""From a suite to the list of its runs, all checked before any job starts."""
