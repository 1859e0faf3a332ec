"""Attributes, annotations, prepared data set, classes that training has seen. Used by all stages with labels."""
