"""Access to the server: key, host names, and unambiguous headers."""
import base64
import hmac
import http
import ipaddress
import re
import socket
from collections.abc import Iterable

from websockets.http11 import Request

_HOST = re.compile(r'(?P<name>\[[0-9a-f:.]+\]|[^\s:\[\]@/]+)(:\d*)?')


class Refused(Exception):
  """A request that is not served.

  Attributes:
    outcome: in the metric rtjax_connections.
    status: of the HTTP response, whose body is the error's text.
    headers: further headers of the response.
  """

  def __init__(self, outcome: str, status: http.HTTPStatus, text: str, headers: dict[str, str] | None = None):
    super().__init__(text)
    self.outcome, self.status, self.headers = outcome, status, headers or {}


class Access:
  """Checks of a request's headers.

  Args:
    api_key: key that clients must send; '' for none.
    hosts: names of the server beside localhost, this machine's name and all IP addresses.
  """

  def __init__(self, api_key: str, hosts: Iterable[str]):
    self._api_key = api_key.encode()
    self._hosts = {name.lower().rstrip('.') for name in ('localhost', socket.gethostname(), *hosts)}

  def check(self, request: Request) -> tuple[str, bool]:
    """Return the path, and whether the request is for a websocket.

    Raises:
      Refused: a header is given twice, the host is another server's, or the key is missing or wrong.
    """
    host, upgrade, authorization = (_header(request, name) for name in ('Host', 'Upgrade', 'Authorization'))
    path, is_websocket = request.path.partition('?')[0], upgrade.lower() == 'websocket'
    self._check_host(host)
    if not self._allowed(authorization) and (is_websocket or path != '/healthz'):
      raise Refused('unauthorized', http.HTTPStatus.UNAUTHORIZED,
                    'This server requires its API key: pass it as api_key to openpi-client or rtjax-client; in a '
                    'browser as the password of any user.', {'WWW-Authenticate': 'Basic realm="rtjax"'})
    return path, is_websocket

  def _check_host(self, host: str) -> None:
    """Raise Refused for names of other servers.

    A web page whose name is pointed at this machine (DNS rebinding) sends its own name, which differs.
    """
    match = _HOST.fullmatch(host.lower())
    name = match['name'].rstrip('.') if match else ''
    if name not in self._hosts and not _is_address(name.strip('[]')):
      raise Refused('misdirected', http.HTTPStatus.MISDIRECTED_REQUEST,
                    f'This server does not answer to the host {host[:200]!r}. If that is its name, start it with '
                    '--allowed-hosts NAME.')

  def _allowed(self, authorization: str) -> bool:
    """Return whether the header holds the key, in any of three schemes."""
    if not self._api_key:
      return True
    scheme, _, credentials = authorization.partition(' ')
    key = credentials.strip().encode()
    if scheme.lower() == 'basic':
      try:
        key = base64.b64decode(key, validate=True).partition(b':')[2]
      except ValueError:
        return False
    elif scheme.lower() not in ('api-key', 'bearer'):
      return False
    return hmac.compare_digest(key, self._api_key)


def _header(request: Request, name: str) -> str:
  values = request.headers.get_all(name)
  if len(values) > 1:
    raise Refused('invalid', http.HTTPStatus.BAD_REQUEST, f'The request has {len(values)} {name} headers, expected at '
                  'most one.')
  return values[0] if values else ''


def _is_address(name: str) -> bool:
  try:
    ipaddress.ip_address(name)
  except ValueError:
    return False
  return True
