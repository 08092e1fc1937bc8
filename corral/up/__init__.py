"""`corral up`: the whole control plane on one machine, supervised."""
