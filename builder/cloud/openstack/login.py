"""One login per cloud: token and catalogue, shared by all regions and threads."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from typing import Final
from weakref import WeakValueDictionary

from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session

from builder.cloud.openstack.clouds_yaml import Region
from builder.cloud.openstack.failures import FOREIGN_ERRORS
from builder.cloud.openstack.transport import mount

LOG = logging.getLogger(__name__)

#: The settings that make one login differ from another, besides all whose names begin with "identity".
_MARKS: Final = frozenset(
    {"auth", "auth_type", "profile", "verify", "insecure", "cacert", "cert", "key", "passcode", "api_timeout"}
)


class Login:
    """A session with a token that is renewed in time, by one thread while the others wait for it.

    A renewed token replaces the old one only once it is there, so that who sends bytes, or needs a
    token for a moment only, goes on with the one there is.
    """

    def __init__(self, session: Session, cloud: str) -> None:
        self.session = session
        self.over = False  #: it was refused: whoever has it asks for a new one
        self._cloud = cloud
        self._lock = threading.Lock()
        self._round = 0
        self._error: Exception | None = None

    def prepare(self, life: float) -> None:
        """Make sure that the token lives so many seconds more, if the cloud gives such; FOREIGN_ERRORS.

        Threads that wait for one login share its outcome: when a cloud hangs, each waits once.
        """
        auth = self.session.auth
        # Other plugins, such as "none", have no token that could end.
        if not isinstance(auth, BaseIdentityPlugin) or _lives(auth, life):
            return
        came_in = self._round
        with self._lock:
            if _lives(auth, life):
                return
            if self._round == came_in:
                self._log_in(auth)
            elif self._error is not None:
                raise self._error

    def replace(self, token: str | None) -> bool:
        """Forget a token that was refused; whether it makes sense to try again with another."""
        auth = self.session.auth
        if not isinstance(auth, BaseIdentityPlugin):
            return False
        with self._lock:
            # Another thread may have met the same, and renewed it already.
            if auth.auth_ref is not None and auth.auth_ref.auth_token == token:
                auth.auth_ref = None
        return True

    def _log_in(self, auth: BaseIdentityPlugin) -> None:
        self._error = None
        try:
            auth.auth_ref = auth.get_auth_ref(self.session)
        except FOREIGN_ERRORS as error:
            self._error = error
            raise
        finally:
            self._round += 1
        LOG.info("cloud %s: logged in", self._cloud)


class Logins:
    """The logins that are in use: the same for all who have the same cloud and credentials.

    Each lives as long as some Cloud has it. Nothing here waits for a network.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: WeakValueDictionary[str, Login] = WeakValueDictionary()

    def of(self, region: Region) -> Login:
        """The login for a region of clouds.yaml (as `region_of` returns it); it may not be made yet."""
        mark = _fingerprint(region)
        with self._lock:
            login = self._known.get(mark)
            if login is None or login.over:
                session: Session = region.get_session()
                mount(session.session)
                login = Login(session, region.name)
                self._known[mark] = login
            return login


def _lives(auth: BaseIdentityPlugin, life: float) -> bool:
    return auth.auth_ref is not None and not auth.auth_ref.will_expire_soon(int(life))


def _fingerprint(region: Region) -> str:
    """The same for all regions of a cloud that are entered with the same credentials."""
    settings = {
        name: value for name, value in region.config.items() if name in _MARKS or name.startswith("identity")
    }
    text = json.dumps([region.name, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
