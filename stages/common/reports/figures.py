"""The pictures that matplotlib draws."""

from matplotlib import rc_context

names_are_text = rc_context({"text.parse_math": False})
"""Decorates functions that draw texts of people: matplotlib would read text between two `$` as a formula."""
