"""Stand-ins that keep a contract of the product; the contract's own tests run on them too."""
