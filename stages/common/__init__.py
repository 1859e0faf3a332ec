"""Code that two or more stages share: one concept per module, and no stage is imported from here."""
