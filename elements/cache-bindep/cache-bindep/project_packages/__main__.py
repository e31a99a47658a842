"""Lists the packages that the repositories of an image ask for.

    python -m project_packages HEADS REPOSITORIES SYSTEM FALLBACK CACHE OUT

HEADS is cache-git's list, REPOSITORIES where they are, SYSTEM a directory with the image's etc/os-release,
FALLBACK the bindep file of projects that have none, CACHE where results are kept. In the directory OUT come
`packages`, a name on each line, `bindep`, the program for the image, and `report.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from cache_stage.settings import SettingError, number
from project_packages import files, tool
from project_packages.asking import Answer, Asker
from project_packages.kept import Found, Kept

_asker: Asker


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Do it, and say what was found; the exit code."""
    heads, repositories, system, fallback, cache, out = map(Path, arguments)
    os.umask(0o022)
    try:
        program = tool.tool(
            cache,
            environment.get("DIB_CACHE_BINDEP_REQUIREMENT") or "bindep",
            days=number(environment, "DIB_CACHE_BINDEP_DAYS", 7),
            offline=bool(environment.get("DIB_OFFLINE")),
            say=say,
        )
        shutil.copy2(program, out / "bindep")
        own = _content(fallback)
        chosen = (environment.get("DIB_CACHE_BINDEP_PROFILES") or "").split()
        kept = Kept(cache / f"asked-{_key(program, system, chosen)}.json")
        listed = json.loads(heads.read_text())
        found, texts = _files(listed, repositories, kept)
        fallback_hash = hashlib.sha256(own).hexdigest()
        wanted = {one.sha256 for one in found.values() if one.sha256} | {fallback_hash}
        answers = {sha256: kept.answers[sha256] for sha256 in wanted if sha256 in kept.answers}
        texts[fallback_hash] = own
        todo = {sha256: texts[sha256] for sha256 in wanted if sha256 not in answers}
        answers |= _asked(todo, program, system, chosen)
        if answers[fallback_hash].trouble:
            raise SettingError(f"{fallback}: {answers[fallback_hash].trouble}")
    except (tool.ToolError, SettingError) as error:
        say(f"ERROR: {error}")
        return 1
    kept.save({listed[path]["commit"]: one for path, one in found.items()}, answers)
    _report(found, answers, out)
    return 0


def say(text: str) -> None:
    """Tell it in the build's log."""
    sys.stdout.write(f"cache-bindep: {text}\n")
    sys.stdout.flush()


def _files(
    heads: Mapping[str, Mapping[str, str]], repositories: Path, kept: Kept
) -> tuple[dict[str, Found], dict[str, bytes]]:
    """The bindep file of each repository, and the content, by hash, of those that are not known yet."""
    found, texts = {}, {}
    for path, entry in heads.items():
        commit = entry["commit"]
        if not commit:
            continue  # there is nothing in it
        if commit in kept.commits:
            found[path] = kept.commits[commit]
            continue
        file = files.read(repositories / path, commit)
        if file is None:
            found[path] = Found()
        elif file.trouble:
            found[path] = Found(file.name, trouble=file.trouble)
        else:
            sha256 = hashlib.sha256(file.content).hexdigest()
            texts[sha256] = file.content
            found[path] = Found(file.name, sha256)
    return found, texts


def _asked(
    texts: Mapping[str, bytes], program: Path, system: Path, chosen: Sequence[str]
) -> dict[str, Answer]:
    if not texts:
        return {}
    # A program that runs as `__main__` can't be imported by a server of forks, newer Python's default.
    with ProcessPoolExecutor(
        os.cpu_count(), get_context("fork"), initializer=_begin, initargs=(program, system, chosen)
    ) as pool:
        return dict(zip(texts, pool.map(_ask, texts.values()), strict=True))


def _begin(program: Path, system: Path, chosen: Sequence[str]) -> None:
    global _asker  # noqa: PLW0603 - one for each process of the pool
    _asker = Asker(program, system, chosen)


def _ask(content: bytes) -> Answer:
    return _asker.ask(content)


def _report(found: Mapping[str, Found], answers: Mapping[str, Answer], out: Path) -> None:
    report = {}
    for path, one in found.items():
        if one.name:
            answer = answers.get(one.sha256, Answer())
            trouble = one.trouble or answer.trouble
            report[path] = {"file": one.name, "packages": answer.packages, "trouble": trouble}
            if trouble:
                say(f"WARNING: {one.name} of {path}: {trouble}")
    names = sorted({name for answer in answers.values() for name in answer.packages})
    (out / "packages").write_text("".join(f"{name}\n" for name in names))
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    say(
        f"{len(report)} of {len(found)} repositories have a bindep file;"
        f" with the fallback they name {len(names)} packages"
    )


def _content(fallback: Path) -> bytes:
    try:
        return fallback.read_bytes()
    except OSError as error:
        raise SettingError(
            f"DIB_CACHE_BINDEP_FALLBACK, {fallback}, can't be read: {error.strerror}"
        ) from None


def _key(program: Path, system: Path, chosen: Sequence[str]) -> str:
    """The same as long as the same file gets the same answer."""
    digest = hashlib.sha256(program.read_bytes())
    for file in sorted(found for found in system.rglob("*") if found.is_file()):
        digest.update(file.read_bytes())
    # Our own way to ask.
    digest.update(Path(__file__).with_name("asking.py").read_bytes())
    digest.update(" ".join(chosen).encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
