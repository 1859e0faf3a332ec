"""Stage `champion`: the released version, fetched from the registry once per run, so that a whole run uses the same.

Inputs: the registry.
Outputs: see `stages.common.registry.champion`.
"""
