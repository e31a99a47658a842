"""Puts a Python of its own beside network-glean: the interpreter, what it needs of its library, no more.

Runs while the image is built, by the Python of the image: ``collect.py SOURCES HOME``. Below HOME then are
``bin/python``, its compiled modules where it looks for them, and the shared libraries that are not the C
library's. The interpreter finds its library by its own place, so nothing else of the system is read.
"""

from __future__ import annotations

import modulefinder
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

#: Where imports are looked for, and those no scan can see.
ENTRY = "network_glean.command"
HIDDEN = ("encodings.ascii", "encodings.latin_1", "encodings.utf_8", "traceback", "linecache", "locale")
#: Named somewhere by a module of the library, but for what network-glean never does. What some version of
#: Python needs nevertheless is found out by trying.
NEEDLESS = (
    *("_bz2", "_decimal", "_hashlib", "_lzma", "_pydecimal", "_ssl", "asyncio", "bdb", "bz2", "ctypes"),
    *("decimal", "distutils", "doctest", "email", "fractions", "hashlib", "http", "importlib.metadata"),
    *("importlib.readers", "importlib.resources", "inspect", "lzma", "multiprocessing", "ntpath", "pdb"),
    *("pickle", "pkg_resources", "pydoc", "random", "setuptools", "ssl", "statistics", "tarfile"),
    *(
        "tempfile",
        "tracemalloc",
        "unittest",
        "urllib.error",
        "urllib.request",
        "xml",
        "zipfile",
        "StringIO",
        "ConfigParser",
    ),
)
#: The C library's own: the one thing of the system that is used.
_C_LIBRARY = re.compile(r"(ld-linux.*|ld64|lib(c|m|dl|rt|util|pthread|resolv|anl|mvec))\.so(\.\d+)*$")


def main(sources: Path, home: Path) -> None:
    """Make HOME anew."""
    needless = set(NEEDLESS)
    missing: str | None = "anything"
    while missing:
        collect(sources, home, needless)
        missing = missing_module(home)
        if missing:
            if missing not in needless:
                raise SystemExit(f"network-glean: the image's Python has no module {missing}")
            needless.remove(missing)


def collect(sources: Path, home: Path, needless: set[str]) -> None:
    """Fill HOME, emptied before, with the interpreter and what it needs but for `needless` modules."""
    shutil.rmtree(home, ignore_errors=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = home / getattr(sys, "platlibdir", "lib") / version
    # Both are what an interpreter knows its library by.
    (library / "lib-dynload").mkdir(parents=True)
    binary = home / "bin/python"
    binary.parent.mkdir()
    shutil.copy2(os.path.realpath(sys.executable), binary)
    binaries = [binary]
    for name, file in sorted(modules(sources, needless).items()):
        if file.suffix == ".py":
            compile_to(library, name, file)
        else:
            binaries.append(Path(shutil.copy2(file, library / "lib-dynload")))
    (home / "lib").mkdir(exist_ok=True)
    for shared in sorted({one for each in binaries for one in shared_libraries(each)}):
        shutil.copy2(shared, home / "lib" / shared.name)


def missing_module(home: Path) -> str | None:
    """The module that is missed first when all are imported; None if there is none."""
    done = subprocess.run(
        [str(home / "bin/python"), "-I", "-S", "-B", "-c", f"import {', '.join((ENTRY, *HIDDEN))}"],
        env={"LC_ALL": "C", "LD_LIBRARY_PATH": str(home / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    found = re.findall(r"No module named '([^']+)'", done.stderr)
    if not found:
        raise SystemExit(f"network-glean: its own Python does not start:\n{done.stderr}")
    return found[0]


def modules(sources: Path, needless: set[str]) -> dict[str, Path]:
    """Every module that is needed and is a file, by name."""
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *sys.path]
    standard = [path for path in standard if "-packages" not in path and path != str(Path(__file__).parent)]
    finder = modulefinder.ModuleFinder(path=[str(sources), *standard], excludes=sorted(needless))
    for name in (ENTRY, *HIDDEN):
        finder.import_hook(name, None, ["*"] if name == ENTRY else None)
    found = {name: Path(module.__file__) for name, module in finder.modules.items() if module.__file__}
    missing = {name.partition(".")[0] for name in ("network_glean", "glean", "os", "json")} - set(found)
    if missing:
        raise SystemExit(f"network-glean: the image's Python has no module {', '.join(sorted(missing))}")
    return found


def compile_to(library: Path, name: str, file: Path) -> None:
    """Write the compiled module alone, without the directory __pycache__: it is then found as it is."""
    stem = name.replace(".", "/") + ("/__init__" if file.name == "__init__.py" else "")
    target = library / f"{stem}.pyc"
    py_compile.compile(
        str(file),
        cfile=str(target),
        dfile=f"{stem}.py",
        doraise=True,
        optimize=2,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def shared_libraries(binary: Path) -> list[Path]:
    """The shared libraries of a program or a module that are not the C library's."""
    said = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=True).stdout
    if "not found" in said:
        raise SystemExit(f"network-glean: {binary} lacks a shared library:\n{said}")
    found = [Path(path) for path in re.findall(r"=> (/\S+)", said)]
    return [path for path in found if not _C_LIBRARY.fullmatch(path.name)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
