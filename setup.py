"""Packaging of imagepool: `pip install .` gives the command `imagepool`."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "builder/__init__.py").read_text()).group(1)

setup(
    name="imagepool",
    version=VERSION,
    description="Keeps a CI system's virtual-machine images fresh in every OpenStack region",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    classifiers=[
        "Environment :: OpenStack",
        "Intended Audience :: System Administrators",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
    ],
    # The elements are data that ship with the package; in a checkout they are beside it.
    packages=[*find_packages(include=["builder", "builder.*"]), "builder.elements"],
    package_dir={"builder.elements": "elements"},
    package_data={"builder": ["py.typed", "dib/isolation/sandbox/*"], "builder.elements": ["**/*"]},
    install_requires=[
        "cliff>=4.0",
        "croniter>=2.0",
        "cyclonedx-python-lib>=11",
        "debian-inspector>=31.1",
        "diskimage-builder>=3.43",
        "Jinja2>=3.1",
        # store/bulk.py asks for many nodes at a time, for which kazoo has no word of its own in this series.
        "kazoo>=2.10,<3",
        "openstacksdk>=4.0",
        "packageurl-python>=0.15",
        "pycdlib>=1.14",
        "pydantic>=2.5",
        "PyYAML>=6.0",
        "requests>=2.31",
        "starlette>=1.10",
        "statsd>=4.0",
        "stevedore>=5.0",
        "tzdata>=2024.1",
        "univers>=32.0",
        "urllib3>=2.0",
        "uvicorn>=0.40",
        "watchdog>=4.0",
    ],
    entry_points={
        "console_scripts": [
            "imagepool = builder.cli.main:main",
            # The one program that a daemon of a service user runs by sudo (docs/service-user.md).
            "imagepool-root = builder.dib.isolation.asroot:main",
        ]
    },
)
