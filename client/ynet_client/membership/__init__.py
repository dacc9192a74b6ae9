"""Who this site is: its certificate and keys, their renewal, the authority it trusts, the sites it has confirmed."""
