"""The imagepool command."""
