"""Client of an rtjax policy server; needs NumPy but no JAX."""
from rtjax_client.image import resize_with_pad as resize_with_pad
from rtjax_client.policy import ActionTimeout as ActionTimeout
from rtjax_client.policy import ConnectionLost as ConnectionLost
from rtjax_client.policy import Hold as Hold
from rtjax_client.policy import RemoteAction as RemoteAction
from rtjax_client.policy import RemoteError as RemoteError
from rtjax_client.policy import RemotePolicy as RemotePolicy
from rtjax_client.policy import ServerError as ServerError

__version__ = '0.1.0'
