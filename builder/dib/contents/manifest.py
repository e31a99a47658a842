"""Write down, beside the files of a build, what went in and what came out.

    <build's directory>/packages.json     every package with its version
                        sizes.json        what the files take, by directory
                        files.json        owners and modes, services and kernels (see marks.py)
                        sbom.cdx.json     the packages as a CycloneDX bill of materials
                        inputs.json       what went in (see inputs.py)
                        elements.tar.gz   the elements that don't come with diskimage-builder
                        dib-manifests/    diskimage-builder's own
                        changes.json      how it differs from the build before (see builder/dib/differences)
                        changes.md        the same for people
                        test.json         what came of booting the image (see builder/dib/boot)
                        console.log       what the machine said on its console meanwhile

The element imagepool-manifest leaves the raw data there, which is read and removed. Trouble with it
ends no build: an image is worth more than its manifest. The files are written all the same, and say
in "problems" what is missing and why.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from builder.dib.command import MANIFEST_ELEMENT, Command
from builder.dib.contents import archive, inputs, installed, listing, marks, packages, sbom, sizes
from builder.dib.output import withheld
from builder.dib.output.artifacts import PROOF
from builder.dib.output.hashing import Disk
from builder.errors import RefusedError
from builder.model import Artifact

SBOM: Final = sbom.FILE
#: How a build differs from the one before, for programs and for people.
CHANGES: Final = "changes.json"
CHANGES_TEXT: Final = "changes.md"
#: What came of booting the image, and what the machine said on its console meanwhile.
TEST: Final = "test.json"
CONSOLE: Final = "console.log"
#: What only imagepool writes into a build's directory.
_OURS: Final = frozenset(
    {
        *(PROOF, packages.FILE, sizes.FILE, marks.FILE, SBOM, inputs.FILE, archive.FILE),
        *(CHANGES, CHANGES_TEXT, TEST, CONSOLE, withheld.NAME),
    }
)
#: Where diskimage-builder's own manifests are (DIB_MANIFEST_SAVE_DIR), below the build's directory.
_DIB: Final = "dib-manifests"
_GIT: Final = "dib-manifest-git-*"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was found: the inputs with what only the build could tell, and how much there is."""

    inputs: inputs.Inputs
    packages: int  #: how many
    files: int  #: how many the image has
    problems: tuple[str, ...] = ()  #: what could not be found out, and why; for the log


def sanitise(directory: Path) -> None:
    """Remove from a build's directory whatever is no regular file or directory, and files called like ours.

    It is the build that made it, and much of it is copied from the image: a link leads elsewhere, a
    FIFO is read for ever and a device without end; a build.json of its own would stand for our proof.
    To be called before anything in it is read. Fine when there is none. Raises OSError.
    """
    if not os.path.lexists(directory):
        return
    if not stat.S_ISDIR(directory.lstat().st_mode):
        directory.unlink()
        return
    for top, directories, files in os.walk(directory):
        # Links to directories are among the directories.
        for path in (Path(top, name) for name in (*directories, *files)):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                path.unlink()
    for path in (directory / name for name in sorted(_OURS)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write(
    directory: Path,
    *,
    image: str,
    build_id: str,
    started: datetime,
    rendered: Command,
    known: inputs.Inputs,
    tools: Mapping[str, str],
    artifacts: Iterable[Artifact] = (),
    disk: Disk | None = None,
) -> Written:
    """Write the manifests of a build into `directory`, which disk-image-create made or not.

    `started` is aware and the only time in them, `rendered` is the command that built, `known` what
    was collected of it before the build, `artifacts` are the build's files, and `disk` is what is in
    all of them. `sanitise` comes before it. Raises OSError when the files can't be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    raw = directory / MANIFEST_ELEMENT
    problems = _problems(raw)
    found = packages.read(raw)
    files = listing.read(raw)
    directories = sizes.by_directory(files)
    marks.save(directory, marks.find(files, raw, problems))
    complete = known.with_digests({**git_heads(directory), **_digest(found)})
    if not found:
        problems = (*problems, "no package database was found in the image")
    problems = (*problems, *_keep_elements(directory, rendered, known))
    packages.save(directory, found, packages.distribution(raw), problems)
    _write_sizes(directory, directories, problems)
    made = tuple(artifacts)
    subject = sbom.Subject(image=image, build_id=build_id, started=started, artifacts=made, disk=disk)
    bill = sbom.text(subject, found, packages.distribution(raw), tools)
    (directory / SBOM).write_text(bill, encoding="utf-8")
    inputs.write(directory, complete)
    shutil.rmtree(raw, ignore_errors=True)
    total = directories.get("/", sizes.Size())
    return Written(inputs=complete, packages=len(found), files=total.files, problems=problems)


def _problems(raw: Path) -> tuple[str, ...]:
    if not raw.is_dir():
        return (f"the element {MANIFEST_ELEMENT} did not run, so nothing is known of the content",)
    trouble = raw / "trouble"
    return tuple(trouble.read_text(errors="replace").splitlines()) if trouble.exists() else ()


def _keep_elements(directory: Path, rendered: Command, known: inputs.Inputs) -> Iterator[str]:
    """Keep the elements that come from elsewhere; why they are not all kept, or not as they were."""
    try:
        resolved = inputs.resolve(rendered.argv, rendered.environment)
        theirs = installed.of(rendered.argv, rendered.environment.get("PATH")).elements
        elements = archive.own(resolved, theirs)
        now = inputs.element_hashes(elements)
        problem = archive.save(directory, elements)
    # A directory of elements that somebody updates just now; a full disk is another matter.
    except (RefusedError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        yield f"the elements of the build are not kept: {getattr(error, 'message', error)}"
        return
    if problem is not None:
        yield problem
    for name, digest in now.items():
        if known.elements.get(name) not in (None, digest):
            yield f"the element {name} was changed while the image was built"


def _digest(found: tuple[packages.Package, ...]) -> Mapping[str, str]:
    # Two images that we know nothing of are not alike.
    return {"packages": packages.digest(found)} if found else {}


def git_heads(directory: Path) -> Mapping[str, str]:
    """{"git <name>": commit} of each repository that the build took from source-repositories.

    From diskimage-builder's own manifest, whose lines are "name git path URL commit" (its element
    source-repositories, extra-data.d/98-source-repositories). Raises OSError.
    """
    heads = {}
    for file in filter(Path.is_file, sorted((directory / _DIB).glob(_GIT))):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if len(words) >= 5 and words[1] == "git":
                heads[f"git {words[0]}"] = words[-1]
    return heads


def _write_sizes(directory: Path, found: Mapping[str, sizes.Size], problems: tuple[str, ...]) -> None:
    rows = [
        {"path": path, "allocated": size.allocated, "apparent": size.apparent, "files": size.files}
        for path, size in found.items()
    ]
    total = found.get("/", sizes.Size())
    record = {
        "depth": sizes.DEPTH,
        "total": {"allocated": total.allocated, "apparent": total.apparent, "files": total.files},
        "directories": rows,
        "problems": list(problems),
    }
    _write(directory / sizes.FILE, record)


def _write(file: Path, record: Mapping[str, Any]) -> None:
    # A path may have bytes that are no text; JSON's own escapes hold them.
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")
