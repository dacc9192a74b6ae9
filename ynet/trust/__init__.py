"""Certificates, invitations and keys, and append-only logs that others sign."""
