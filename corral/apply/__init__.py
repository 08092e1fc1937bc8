"""`corral apply`: a file says what should be; `manifest` reads it, `plan` compares, `carry_out` does it."""
