"""What two or more stages share: one concept per module, and no stage imported from here."""
