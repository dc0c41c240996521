"""The session machine with a tiny node, journal and client around it, small enough to be searched to the end."""
