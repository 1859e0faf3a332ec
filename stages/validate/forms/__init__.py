"""The forms of raw annotations: each has a reader, which returns a `Part`."""
