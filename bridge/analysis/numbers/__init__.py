"""Tidy tables read and checked; intervals and paired differences."""
