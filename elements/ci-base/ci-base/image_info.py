"""Tells what an image is: from the build's environment to the text of /etc/image-info.json on stdout."""

import json
import os
import re
import sys
import time
from pathlib import PurePath

#: What names of images and elements, and all the other words, are made of.
WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+~-]{0,250})")
EPOCH = "SOURCE_DATE_EPOCH"
#: The last second of the year 9999.
LATEST = 253402300799


class InfoError(Exception):
    """The environment has something that can't be."""


def word(name, value):
    """The value of a variable, if it is a word."""
    if not WORD.fullmatch(value):
        raise InfoError(f"{name} has a value that is no word of a-z, A-Z, 0-9, ., _, +, ~ and -")
    return value


def build_time(environ):
    """When the build was, in UTC; SOURCE_DATE_EPOCH (seconds) if that is set."""
    given = environ.get(EPOCH) or str(int(time.time()))
    if not re.fullmatch("[0-9]{1,12}", given) or int(given) > LATEST:
        raise InfoError(f"{EPOCH} is no number of seconds since 1970")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(given)))


def host_name(image):
    """A host name made of the image's: at most 63 of a-z, 0-9 and - (RFC 1123)."""
    return re.sub(r"[^a-z0-9]+", "-", image.lower())[:63].strip("-")


def info(environ):
    """All there is to tell."""
    image = environ.get("DIB_IMAGE_NAME") or PurePath(environ["IMAGE_NAME"]).name
    build = environ.get("IMAGEPOOL_BUILD_ID")
    elements = environ["IMAGE_ELEMENT"].split(" ")
    return {
        "image": word("DIB_IMAGE_NAME", image),
        "hostname": host_name(image),
        "build_id": word("IMAGEPOOL_BUILD_ID", build) if build else None,
        "build_time": build_time(environ),
        "distribution": word("DISTRO_NAME", environ["DISTRO_NAME"]),
        "release": word("DIB_RELEASE", environ["DIB_RELEASE"]),
        "architecture": word("ARCH", environ["ARCH"]),
        "elements": sorted({word("IMAGE_ELEMENT", each) for each in elements if each}),
    }


def main():
    """From the environment to standard output."""
    try:
        told = info(os.environ)
    except InfoError as error:
        sys.stderr.write(f"ci-base: error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
