"""Attributes, annotations, prepared data set, classes that training has seen. Entered by all that see labels."""
