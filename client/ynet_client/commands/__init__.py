"""The site's command line: what a site admin and a radiologist type."""
