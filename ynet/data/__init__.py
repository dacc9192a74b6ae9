"""A hospital's images, masks and labels: read, checked, prepared."""
