"""Tables, figures and the report of a suite: pure functions of its tidy tables.

Nothing in this package imports model code, so everything here rebuilds in seconds on a machine
without torch. The entry functions live in `tables`, `figures` and `report`; this module imports
none of them, so that importing one costs only what it needs.
"""
