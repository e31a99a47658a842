"""Has finished images booted by the program builder.boottest, in a sandbox."""
