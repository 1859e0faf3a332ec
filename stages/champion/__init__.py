"""Stage `champion`: the released version, taken out of the registry once per run, so that a whole run uses the same.

Inputs: the registry.
Outputs: see `stages.common.registry.champion`.
"""
