"""Bounds on the size of image files and of the images in them."""

MAX_FILE_BYTES = 64 << 20
"""Of an image file, and of a deflated file after inflation."""
MAX_PIXELS = 50_000_000
"""Of one image or frame."""
