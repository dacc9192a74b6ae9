"""Who may connect: the consortium's authority, its certificates, enrolment and revocation."""
