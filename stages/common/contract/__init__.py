"""What makes a stage a stage: command line, run, artifacts, keys, parameters, errors, logs. Everyone enters."""
