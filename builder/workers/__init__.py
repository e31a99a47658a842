"""What a daemon does: the workers of its four roles, and those that look after the daemon itself."""
