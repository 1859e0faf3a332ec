"""The raw input of the pipeline, and `make_samples`, which draws a labelled data set for those who have none."""
