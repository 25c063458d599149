"""Wire protocol: openpi's format, and errors for invalid messages."""
import msgpack
import numpy as np
import pytest
from rtjax_client import codec

from rtjax.serving import protocol
from rtjax.serving.protocol import ProtocolError

SIZE = (4, 6)
IMAGE = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


def openpi():
  return pytest.importorskip('openpi_client.msgpack_numpy', reason='openpi-client is not installed (Makefile)')


@pytest.mark.parametrize('theirs', ['openpi', 'rtjax_client'])
def test_arrays_are_encoded_and_decoded(theirs):
  other = openpi() if theirs == 'openpi' else codec
  pack, unpack = (other.packb, other.unpackb) if theirs == 'openpi' else (other.pack, other.unpack)
  value = {'a': np.array([[1.5, -2]], np.float32), 'b': IMAGE, 'c': np.float32(0.1), 'd': np.zeros((0, 3), np.int64),
           'e': {'f': 'text', 'g': [1, None, True]}, 'h': np.array(7, '>i2')}
  for encode, decode in [(pack, protocol.unpack), (protocol.pack, unpack)]:
    got = decode(encode(value))
    assert got.keys() == value.keys() and got['e'] == value['e']
    for key in 'abcdh':
      np.testing.assert_array_equal(got[key], value[key])
      assert got[key].dtype == value[key].dtype and got[key].shape == value[key].shape


@pytest.mark.parametrize('keys', [
    {'image': IMAGE, 'instruction': 'go', 'proprioception': np.array([1.0, 2.0]), 'reset': True},
    {'observation/image': IMAGE, 'prompt': 'go', 'observation/state': np.array([1.0, 2.0]), 'reset': np.bool_(True),
     'observation/wrist_image': IMAGE, 'embedding': None}])
def test_request(keys):
  got = protocol.read_request(codec.pack(keys), SIZE)
  np.testing.assert_array_equal(got.image, IMAGE)
  assert got.instruction == 'go' and got.reset and got.embedding is None
  assert got.proprioception.dtype == np.float32 and got.proprioception.tolist() == [1, 2]


@pytest.mark.parametrize('number', [2 ** 31, -2 ** 31 - 1, 2 ** 40])
def test_token_ids_beyond_32_bits(number):
  message = codec.pack({'image': IMAGE, 'embedding': np.array([1, number])})
  with pytest.raises(ProtocolError, match='beyond 32 bits'):
    protocol.read_request(message, SIZE)


@pytest.mark.parametrize('dtype, expected', [(np.float64, np.float32), (np.float32, np.float32), (np.int64, np.int32)])
def test_integer_embeddings_are_token_ids(dtype, expected):
  """Token ids of a prompt stay integers."""
  request = protocol.read_request(codec.pack({'image': IMAGE, 'embedding': np.arange(3, dtype=dtype)}), SIZE)
  assert request.embedding.dtype == expected and request.embedding.tolist() == [0, 1, 2]


@pytest.mark.parametrize('keys, message', [
    ({'imgae': IMAGE}, "unknown key 'imgae'.* Did you mean 'image'"),
    ({b'image': IMAGE}, "unknown key b'image'"),
    ({}, "no 'image'"),
    ({'image': IMAGE, 'observation/image': IMAGE}, "'observation/image' gives image a second time"),
    ({'image': IMAGE.astype(np.float32)}, r'float32 \(4, 6, 3\), expected uint8'),
    ({'image': IMAGE.transpose(2, 0, 1)}, r'uint8 \(3, 4, 6\), expected uint8 \[H, W, 3\]'),
    ({'image': 'an image'}, 'a str of length 8, expected uint8'),
    ({'image': IMAGE[:3]}, '3x6 .* this server takes 4x6.*--image-size 3 6'),
    ({'image': IMAGE, 'instruction': 'a', 'embedding': np.zeros(512)}, 'not both'),
    ({'image': IMAGE, 'prompt': 3}, 'prompt is a int, expected a text'),
    ({'image': IMAGE, 'prompt': 'a' * 2001}, 'length 2001, expected a text of at most 2000'),
    ({'image': IMAGE, 'embedding': [1, 2]}, 'a list, expected a float32 vector'),
    ({'image': IMAGE, 'embedding': np.array([1, np.nan])}, 'hold: embedding holds NaN'),
    ({'image': IMAGE, 'proprioception': np.array([1, 1e30])}, 'hold: proprioception holds NaN.* beyond 1e'),
    ({'image': IMAGE, 'observation/joint_position': [[]] * 300}, 'more than 256 maps and lists'),
    ({'image': IMAGE, 'reset': 1}, 'expected true or false')])
def test_refused_requests(keys, message):
  with pytest.raises(ProtocolError, match=message):
    protocol.read_request(codec.pack(keys), SIZE)


def array(**parts):
  return msgpack.packb({b'__ndarray__': True, b'data': bytes(4), b'dtype': '<f4', b'shape': [1]} | {
      name.encode(): value for name, value in parts.items()})


@pytest.mark.parametrize('message, error', [
    ('text', 'binary'),
    (b'', 'no msgpack'), (b'\xc1', 'no msgpack'), (b'\x81', 'no msgpack'), (b'\x80\x80', 'no msgpack'),
    (b'\xa2\xff\xfe', 'UnicodeDecodeError'),
    (b'\x91' * 5000, 'no msgpack'),                          # nested too deep
    (b'\xdd\x7f\xff\xff\xff', 'no msgpack'),                 # announces 2 ** 31 items
    (b'\xdd\x00\x10\x00\x00' + bytes(2 ** 20), 'no msgpack'),  # announces and holds 2 ** 20
    (b'\x81\x93\x01\x02\x03\x01', 'no msgpack'),             # a list as key
    (msgpack.packb([1]), 'holds a list'), (msgpack.packb(None), 'holds a NoneType'),
    (msgpack.packb(msgpack.ExtType(5, b'x')), 'holds a ExtType'),
    (array(dtype='|O'), 'expected numbers'), (array(dtype='<U1'), 'expected numbers'),
    (array(dtype='f4,f4'), 'expected numbers'), (array(dtype='<c8'), 'expected numbers'), (array(dtype='('), 'numbers'),
    (array(dtype=4), 'no short text'), (array(dtype='<f4' * 9), 'no short text'),
    (array(shape=[2]), r'float32 \[2\] comes with 4 bytes'), (array(shape=[-1]), 'lacks'), (array(shape=3), 'lacks'),
    (array(shape=[2 ** 40, 2 ** 40]), 'comes with 4 bytes'), (array(shape=[True]), 'lacks'),
    (array(shape=[1] * 9), 'lacks'), (array(data='abcd'), 'lacks'),
    (msgpack.packb({b'__npgeneric__': True, b'data': 'x', b'dtype': '<f4'}), 'no msgpack')])
def test_refused_messages(message, error):
  with pytest.raises(ProtocolError, match=error):
    protocol.read_request(message, SIZE)


def test_corrupted_messages_raise_protocol_errors_only():
  """Every message made from a valid one by changing, removing or adding bytes is read or refused."""
  random = np.random.default_rng(0)
  valid = codec.pack({'image': IMAGE, 'instruction': 'go', 'embedding': None, 'reset': False})
  refused = 0
  for _ in range(3000):
    corrupted = bytearray(valid)
    for _ in range(random.integers(1, 4)):
      start = random.integers(len(corrupted))
      corrupted[start:start + random.integers(3)] = random.bytes(random.integers(3))
    try:
      protocol.read_request(bytes(corrupted), SIZE)
    except ProtocolError:
      refused += 1
  assert 500 < refused < 3000  # changed pixels are valid
