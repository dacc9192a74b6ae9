"""How large a file of images may be, and what it may open into."""

MAX_FILE_BYTES = 64 << 20
"""Of an image file; of what a deflated one opens into, too."""
MAX_PIXELS = 50_000_000
"""Of one image, or of one frame of several."""
