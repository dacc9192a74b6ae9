"""A plan and a demonstration for images that nobody has tuned a plan on."""
