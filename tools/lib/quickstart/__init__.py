"""The quickstart: a development cloud, a daemon with its private ZooKeeper, one image in two regions."""
