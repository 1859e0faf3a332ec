"""Tests of a whole stack. A package, so that the stack that they share is stopped when the last of them is over."""
