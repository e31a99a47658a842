"""What a machine learns at boot from its config drive, as glean reads it, and how it is put into effect."""
