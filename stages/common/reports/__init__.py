"""The pages that people open: sections, text, templates and styles. Everyone enters."""
