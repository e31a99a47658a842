"""What the configuration says: from YAML files to frozen, checked objects."""
