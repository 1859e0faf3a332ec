"""The contract of all stages: command line, run, artifacts, keys, parameters, errors, logs. Everyone enters."""
