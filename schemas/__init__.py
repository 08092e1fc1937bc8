"""The language of Corral: every word that crosses a wire. msgspec only, no I/O, no clock.

KV holds what is (`records`), events say what happened (`events`), commands ask for what should be (`commands`),
signals say how it goes right now (`signals`). `subjects` names every stream, subject, bucket and key.
"""
