"""What is annotated, the prepared data set, what training has seen of it. Entered by all that see labels."""
