"""The world in memory: a deterministic simulator of pools, traffic and policies, and the rooms in virtual time.

Two simulators live here. `simulation` replays months of requests against one scaling policy, event by event; `virtual_time`
and `bus` let the real services run, unchanged, on a clock that jumps.
"""
