"""Replace the kernel in the list of element package-installs: choose.py KERNEL ARCH < LIST > LIST."""

import json
import sys

# What the elements of operating systems that come with diskimage-builder call their kernel.
DEFAULTS = {
    "kernel",
    "linux-image-amd64",
    "linux-image-arm64",
    "linux-image-generic",
    "linux-image-kvm",
    "linux-image-virtual",
}


def main():
    wanted, architecture = sys.argv[1:]
    # Names that element kernel's pkg-map knows; any other is the package's own.
    names = [f"cloud-kernel-{architecture}"] if wanted == "cloud" else wanted.split()
    asked = json.load(sys.stdin)
    replaced = []
    for lists in asked.values():
        found = [package for package, _ in lists.get("install", []) if package in DEFAULTS]
        if found:
            others = [entry for entry in lists["install"] if entry[0] not in DEFAULTS]
            lists["install"] = others + [[name, "kernel"] for name in names]
            replaced += found
    if not replaced:
        sys.exit(
            "kernel: no element of this image asks for a kernel by a name that is known here; "
            "say DIB_KERNEL=default to take what it brings"
        )
    sys.stderr.write(f"kernel: {' '.join(names)} instead of {' '.join(replaced)}\n")
    json.dump(asked, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
