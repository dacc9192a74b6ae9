"""What crosses the wire between hospitals, and who may send it; needs no torch."""
