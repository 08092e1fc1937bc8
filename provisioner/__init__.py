"""The provisioner: makes it so, at some provider.

    commands (CORRAL_CMD)   -> service -> hand -> provider   one command: claim, call, record, fact, ack
    provider.inventory()    -> reconcile                     what is there against what should be
    a person's own machine  -> enroll                        its name and credentials

`plan` and `compare` decide and are pure. `provider` is the door to every place workers come from; `providers/` holds those places.
"""
