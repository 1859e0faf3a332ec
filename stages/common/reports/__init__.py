"""The pages that people open: sections, text, templates and styles. All stages use it."""
