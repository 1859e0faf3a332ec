"""The forms of raw annotations: a reader each, which hands over a `Part`."""
