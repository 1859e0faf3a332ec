"""The contract of all stages: command line, run, artifacts, keys, parameters, errors, logs. All stages use it."""
