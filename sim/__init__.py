"""The world in memory: a deterministic simulator of pools, traffic and policies, and the rooms in virtual time.

Three simulators live here. `simulation` replays months of requests against one scaling policy, event by event; `world` lets the real
services run, unchanged, on a clock that jumps (`virtual_time`) and a bus in memory (`bus`); `routers` plays routing policies against each
other on a fixed pool.
"""
