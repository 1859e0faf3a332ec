"""Work in several processes. Used by the stages that read images or run trainings side by side."""
