"""Search in Hamming space: one total order, and indexes that keep to it."""
