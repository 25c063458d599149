"""Image size of a policy, its server, its export and its simulator.

A policy takes images as training gave them to its model (`PolicyMetadata.input_size`), and a server names this size to
its clients. Images of any other size are resized to it as in training, with the aspect kept and padded with black; an
aspect that the training data did not have is a warning. Simulators and exported programs take images of the size that
was recorded (`PolicyMetadata.camera_size`), which the policy then resizes as training did.
"""
import warnings

from jaxtyping import UInt8
from numpy import ndarray

from rtjax.checkpoints import PolicyMetadata
from rtjax.models import PolicyConfig
from rtjax.models.layers.resize import fit_images

RELEASED_CAMERA = (256, 320)
"""Height and width of the images of the released RT-1 policies."""

_SAME_ASPECT = 0.01  # rounding of a height or width to pixels


def input_size(config: PolicyConfig, metadata: PolicyMetadata) -> tuple[int, int]:
  """Return height and width of the images to send to a policy."""
  return metadata.input_size() or _unknown(config)


def camera_size(config: PolicyConfig, metadata: PolicyMetadata) -> tuple[int, int]:
  """Return height and width of the images to record for a policy.

  Raises:
    ValueError: see `PolicyMetadata.camera_size`.
  """
  return metadata.camera_size() or _unknown(config)


def fit(images: UInt8[ndarray, '*B H W 3'], metadata: PolicyMetadata) -> UInt8[ndarray, '*B h w 3']:
  """Resize images as training did, with a warning about another aspect.

  Images of a policy whose training is unknown are returned unchanged.
  """
  size, found = metadata.input_size(), images.shape[-3:-1]
  if size is None or found == size:
    return images
  known = metadata.recorded_sizes() or [size]
  if not any(abs(found[0] * width / (found[1] * height) - 1) < _SAME_ASPECT for height, width in known):
    trained = ', '.join('{}x{}'.format(*each) for each in known)
    warnings.warn('images are {}x{} (height x width), of another aspect than the training data ({}): they are padded '
                  'with black to {}x{}, which the policy was not trained on. Crop them.'.format(*found, trained, *size),
                  stacklevel=3)
  return fit_images(images, size)


def _unknown(config: PolicyConfig) -> tuple[int, int]:
  return config.image_size if config.reads_prompts else RELEASED_CAMERA
