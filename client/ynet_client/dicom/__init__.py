"""What a hospital's PACS gives, and what is given back to it."""
