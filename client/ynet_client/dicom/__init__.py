"""Import from a hospital's PACS, and export of predicted masks to it."""
