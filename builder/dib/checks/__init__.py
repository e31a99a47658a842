"""What would make a build fail, found out before it starts."""
