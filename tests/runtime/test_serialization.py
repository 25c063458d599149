"""Configurations survive JSON, and damaged ones are refused."""
import dataclasses
from typing import Literal

import pytest

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.runtime import serialization


@dataclasses.dataclass(frozen=True)
class Small:
  width: int = 1


@dataclasses.dataclass(frozen=True)
class Large(Small):
  layers: int = 2


@dataclasses.dataclass(frozen=True)
class Config:
  size: tuple[int, int] = (1, 2)
  part: Small | Large = Small()
  kind: Literal['a', 'b'] = 'a'
  limit: tuple[int, int] | None = None
  rates: tuple[float, ...] = ()


@pytest.mark.parametrize('config', [Config(), Config(part=Large(layers=3), limit=(3, 4), kind='b', rates=(0.5, 1.0))])
def test_round_trip(config):
  data = serialization.to_json(config)
  assert serialization.from_json(data, Config) == config
  assert data['part']['type'] == type(config.part).__name__


@pytest.mark.parametrize('spec', actions.SPECS.values(), ids=actions.SPECS)
def test_action_specs(spec):
  assert serialization.from_json(serialization.to_json(spec), ActionSpec) == spec


@pytest.mark.parametrize('data,words', [
    ({'sise': [1, 2]}, r'Config cannot be read: unknown settings \(sise\)'),
    ({'size': [1, 'x']}, r'expected int @ \$\.size\[1\]'),
    ({'kind': 'c'}, 'not in literal'),
    ({'part': {'width': 1}}, r"type is None, expected one of \['Large', 'Small'\]"),
    ({'part': {'type': 'Small', 'layers': 1}}, r'unknown settings \(layers\)'),
])
def test_damaged(data, words):
  with pytest.raises(ValueError, match=words):
    serialization.from_json(data, Config)


def test_settings_of_a_later_version_have_their_defaults():
  data = {'size': [3, 4], 'part': {'type': 'Large', 'width': 5}}
  read = serialization.from_json(data, Config)
  assert read == Config(size=(3, 4), part=Large(width=5))
  assert serialization.missing(data, serialization.to_json(read)) == {
      'part.layers': 2, 'kind': 'a', 'limit': None, 'rates': []}
  fields = serialization.to_json(actions.ARM_7D)
  del fields['fields'][1]['mirror']
  assert list(serialization.missing(fields, serialization.to_json(actions.ARM_7D))) == ['fields.1.mirror']
