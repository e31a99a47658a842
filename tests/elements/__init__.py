"""Our elements by themselves: real hooks of diskimage-builder on a kept tree, without a disk."""
