"""Bugs of other libraries, switched on one by one."""
