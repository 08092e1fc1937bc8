"""Readers of public recordings of inference traffic, one file per data set; `sim.convert` turns what they read into traces."""
