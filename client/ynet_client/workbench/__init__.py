"""The radiologist's page: an image in, the predicted mask and cases like it out. Served by the site's own process."""
