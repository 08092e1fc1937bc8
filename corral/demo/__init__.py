"""`python -m corral.demo`: a real language model, scaled from zero, up in a burst, and back to zero, in a few minutes."""
