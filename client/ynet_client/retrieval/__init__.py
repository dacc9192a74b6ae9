"""What a site answers other sites' queries with, and what it never gives away."""
