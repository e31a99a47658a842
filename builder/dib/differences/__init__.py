"""How two builds differ: what is in them, and what went into them."""
