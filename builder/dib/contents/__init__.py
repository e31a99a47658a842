"""What went into a build and what came out of it, written beside the image."""
