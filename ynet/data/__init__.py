"""Reading, checking and preparation of a hospital's images, masks and labels."""
