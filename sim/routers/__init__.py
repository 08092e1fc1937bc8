"""The router benchmark: which worker should answer, when all that a router hears are reports of seconds ago.

A fixed pool of unequal workers, each with its own first-come queue and slots. Clients go straight to the worker, so a router sees a
completion only in the worker's next report. `arena` has the events, `policies` what others do, `ours` the router's production code,
`central` the upper bound: one queue from which a worker takes when it has a slot free, with all knowledge at once.
"""
