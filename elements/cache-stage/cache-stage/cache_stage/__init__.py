"""What programs have in common that keep a cache on the building machine and lay it out for an image."""
