"""Where records and locks live: the Store contract and its ZooKeeper implementation."""
