"""Prints what nodepool's own readers make of a tree, as one line of JSON; run by its environment's Python.

    nodepool_view.py NODEPOOL_YAML IMAGE PROVIDER

`cli` is what its command line lists, `web` what its web page answers, from its cache, and `newest` the upload
that its launcher takes for a new server of that image in that provider, by its cache as well. The web page's
server and the launcher's clouds stay out of it.
"""

import json
import os
import sys
from types import SimpleNamespace
from urllib.request import Request, urlopen

from nodepool import launcher, status, webapp
from nodepool.zk import ZooKeeperClient
from nodepool.zk import zookeeper as zk

LISTS = ("image-list", "dib-image-list", "image-status")
READERS = {"image-list": status.image_list, "dib-image-list": status.dib_image_list}


def main(config_file, image, provider):
    config = launcher.NodePool(None, config_file).loadConfig()
    client = ZooKeeperClient(
        config.zookeeper_servers,
        tls_cert=config.zookeeper_tls_cert,
        tls_key=config.zookeeper_tls_key,
        tls_ca=config.zookeeper_tls_ca,
        timeout=config.zookeeper_timeout,
    )
    client.connect()
    plain, cached = zk.ZooKeeper(client, enable_cache=False), zk.ZooKeeper(client, enable_cache=True)
    let_it_fill(cached)
    newest = cached.getMostRecentImageUpload(image, provider, cached=True)
    found = {
        "cli": {name: READERS.get(name, status.image_status)(plain)[0] for name in LISTS},
        "web": from_web_page(cached),
        "newest": None if newest is None else newest.external_id,
    }
    sys.stdout.write(f"{json.dumps(found)}\n")
    sys.stdout.flush()


def let_it_fill(cached):
    """Wait until a cache has all that was in the tree; it says so itself as soon as it has asked for it."""
    cache = cached._image_cache
    # In this order: what is taken from the first one goes into the second.
    cache._event_queue.join()
    cache._playback_queue.join()


def from_web_page(cached):
    page = webapp.WebApp(SimpleNamespace(getZK=lambda: cached), port=0, listen_address="127.0.0.1")
    page.start()
    port = page.server.server_address[1]
    answers = {}
    for name in LISTS:
        wanted = Request(f"http://127.0.0.1:{port}/{name}", headers={"Accept": "application/json"})
        with urlopen(wanted, timeout=10) as answer:
            answers[name] = json.load(answer)
    return answers


if __name__ == "__main__":
    main(*sys.argv[1:])
    # Its threads never end by themselves.
    os._exit(0)
