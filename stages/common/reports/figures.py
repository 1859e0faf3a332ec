"""The pictures that matplotlib draws."""

from matplotlib import rc_context

names_are_text = rc_context({"text.parse_math": False})
"""Decorates what draws names of people, in which matplotlib would take what stands between two `$` for a formula."""
