"""What clouds.yaml says of a cloud and region, and what is wrong when it says nothing."""

from __future__ import annotations

import copy
import os
import threading
from pathlib import Path
from typing import Any, Final

import openstack.config
import openstack.exceptions
import yaml

from builder.cloud.openstack.failures import short
from builder.errors import ConfigError
from builder.model import ImageFormat

#: openstacksdk's types say nothing of what is in a region's settings.
Region = Any


class _Reader:
    """openstacksdk's reader of the files, which stays as long as neither they nor the environment change:
    for many regions, to read them for each would take seconds of the processor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mark: object = None
        self._known: Any = None

    def get(self) -> Any:
        """A reader of one's own; raises what openstacksdk and YAML do."""
        with self._lock:
            # Looked at before they are read: what changes meanwhile is read again.
            mark = _mark()
            if self._known is None or mark != self._mark:
                self._known = None
                # With a port, openstacksdk leaves STATSD_PORT alone, which it takes for a number unseen.
                self._known = openstack.config.OpenStackConfig(
                    app_name="imagepool", statsd_config={"port": _STATSD_PORT}
                )
                self._mark = mark
            return copy.deepcopy(self._known)


_READER: Final = _Reader()
#: The usual one. We send metrics ourselves, so openstacksdk never does.
_STATSD_PORT: Final = 8125

_CLOUDS: Final = "OS_CLIENT_CONFIG_FILE"
_SECURE: Final = "OS_CLIENT_SECURE_FILE"


def image_format_of(cloud: str, region: str | None) -> ImageFormat:
    """The format a cloud wants its images in.

    That is `image_format` of clouds.yaml, else of the vendor's profile, else qcow2. ConfigError
    when the cloud or region is not in clouds.yaml, or the format is none we can make.
    """
    settings = region_of(cloud, region, authenticate=False).config
    word = str(settings.get("image_format") or ImageFormat.QCOW2)
    known = [each for each in ImageFormat if not each.is_part]
    if word.lower() in known:
        return ImageFormat(word.lower())
    raise ConfigError(
        [
            f"clouds.yaml: cloud {cloud!r} wants image_format {word!r}, which can't be made;"
            f" known: {', '.join(known)}"
        ]
    )


def config_files() -> tuple[Path, ...]:
    """The files with credentials that are in use now: clouds.yaml and secure.yaml, where there are any.

    Those that the environment names are in use even while they are missing.
    """
    used = []
    for variable, places in ((_CLOUDS, _clouds_places()), (_SECURE, _secure_places())):
        used += [os.environ.get(variable), _first_there(places)]
    return tuple(dict.fromkeys(Path(file) for file in used if file))


def region_of(cloud: str, region: str | None, *, authenticate: bool, timeout: float | None = None) -> Region:
    """A cloud and region as clouds.yaml describes them; ConfigError.

    `authenticate`: whether to log in with it, so that what is missing for that is an error;
    `timeout`: seconds for each request of a login.
    """
    where = f"cloud {cloud!r}, region {region or 'by default'}"
    _check_readable()
    more = {} if timeout is None else {"api_timeout": timeout}
    try:
        return _READER.get().get_one(cloud=cloud, region_name=region or "", validate=authenticate, **more)
    except (openstack.exceptions.ConfigException, yaml.YAMLError, OSError) as error:
        raise _explained(where, error) from error


def says_yes(region: Region, name: str) -> bool:
    """A switch of clouds.yaml or of the vendor's profile."""
    return str(region.config.get(name)).lower() in ("true", "yes", "1")


def _explained(where: str, error: Exception) -> ConfigError:
    """What keeps us from the settings of a cloud."""
    places = _clouds_places()
    used = _first_there(places)
    if used is None:
        return ConfigError(["there is no clouds.yaml"], hint=f"Looked for {', '.join(places)}.")
    return ConfigError([f"{where}: {short(str(error)).rstrip('.')}"], hint=f"Looked at {used}.")


def _check_readable() -> None:
    """ConfigError for a file that is there but can't be read or parsed: openstacksdk would pass over it,
    and then know no such cloud, or no password. It names no cloud: it is the same for all."""
    clouds, secure = _first_there(_clouds_places()), _first_there(_secure_places())
    used = [clouds] if clouds else []
    # Another user's secrets, in a directory of the system, are no business of ours.
    if secure and (secure == os.environ.get(_SECURE) or Path(secure).parent == Path(clouds or "").parent):
        used.append(secure)
    problems = [f"{file} can't be read: {trouble}" for file in used if (trouble := _trouble(file))]
    if problems:
        raise ConfigError(problems, hint="Let the user that imagepool runs as read it.")
    broken = [f"{file} is not YAML{where}" for file in used if (where := _broken(file)) is not None]
    if broken:
        raise ConfigError(broken, hint="Mend it; nothing in it counts until then.")


def _mark() -> object:
    """What tells that something else may be read now."""
    environment = sorted((name, value) for name, value in os.environ.items() if name.startswith("OS_"))
    places = (*_clouds_places(), *_secure_places(), *openstack.config.loader.VENDOR_FILES)
    named = (place for name, place in environment if name.endswith("_FILE"))
    return environment, [_state(place) for place in (*places, *named)]


def _state(place: str) -> tuple[int, ...] | None:
    """What changes with a file's content; None when there is no file."""
    try:
        now = Path(place).stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _clouds_places() -> tuple[str, ...]:
    return _places(_CLOUDS, openstack.config.loader.CONFIG_FILES)


def _secure_places() -> tuple[str, ...]:
    return _places(_SECURE, openstack.config.loader.SECURE_FILES)


def _places(variable: str, defaults: list[str]) -> tuple[str, ...]:
    """Where a file may be, the first one first, each once: the environment may name one of the others."""
    return tuple(dict.fromkeys(place for place in (os.environ.get(variable), *defaults) if place))


def _first_there(places: tuple[str, ...]) -> str | None:
    """The one that counts, whether or not it can be read."""
    return next((place for place in places if _trouble(place) is not None), None)


def _trouble(place: str) -> str | None:
    """Why a file can't be read: "" when it can, None when there is none."""
    try:
        with Path(place).open("rb") as file:
            file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _broken(file: str) -> str | None:
    """Where a file stops being YAML, None when it is. The place alone: what is there may be a password."""
    try:
        with Path(file).open("rb") as stream:
            yaml.safe_load(stream)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        return f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    except yaml.YAMLError:
        return ""
    except OSError:
        return None  # gone meanwhile: whoever reads it next says so
    return None
