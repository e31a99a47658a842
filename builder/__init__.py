"""imagepool keeps a CI system's virtual-machine images fresh in every OpenStack region."""

__version__ = "0.1.0"
