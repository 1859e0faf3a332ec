"""Work in several processes. Entered by the stages that read images or train side by side."""
