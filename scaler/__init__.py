"""How many workers should there be, of which group, hot, cold or gone?

`types` is the boundary. The core is pure: `state.apply` folds observations, `decide.decide` answers. `service` is the shell.
"""
