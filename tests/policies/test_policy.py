"""Policies on a tiny model; the reference's numbers are in test_policy_golden.py."""
import concurrent.futures
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import public_backbones, saved_run, tiny_rt2
from helpers.compiled import Compiled
from helpers.tiny_rt1 import TINY

from rtjax.checkpoints import PolicyMetadata
from rtjax.language import instructions
from rtjax.models import RT1MultiviewConfig, RT2Config, build, from_values, parameters
from rtjax.policies import policy as policy_module
from rtjax.policies.policy import BatchPolicy, NonFiniteInput, NonFiniteOutput, Policy, load_policy

VIEWS = RT1MultiviewConfig(
    views=2, image_size=(32, 32), encoder=TINY.encoder, width=16, heads=2, layers=1, hidden=16)


@pytest.fixture(scope='module')
def model():
  return build(TINY, seed=0)


def frames(count: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (count, 40, 32, 3), dtype=np.uint8)


def embedding(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=512).astype(np.float32)


def test_equals_the_full_window(model):
  """Each step equals the model on the frames so far, before and after the window is full."""
  policy = Policy(model)
  policy.reset(embedding=embedding())
  images = frames(6)
  for step in range(6):
    out = policy.step(images[step])
    window = images[max(0, step + 1 - TINY.window):step + 1]
    expected = np.asarray(model(window[None], embedding()[None]))[0, -1]
    np.testing.assert_allclose(out.logits, expected, atol=2e-5)
    assert out.tokens.dtype == np.int32 and out.tokens.shape == (7,)
    np.testing.assert_allclose(out.confidence, np.exp(expected).max(-1) / np.exp(expected).sum(-1), rtol=1e-3)
    np.testing.assert_array_equal(
        np.concatenate(list(out.action.values())), TINY.action_spec.detokenize(out.tokens))


def test_bfloat16_on_a_cpu_names_the_faster_type(model):
  assert '--dtype float32' in Policy(model.computing_in('bfloat16')).announcement((40, 32))
  assert '--dtype' not in Policy(model).announcement((40, 32))


def test_policies_of_one_architecture_share_a_program(model):
  """Other weights compile nothing, and give other logits."""
  logits = []
  for network in (model, build(TINY, seed=1)):
    policy = Policy(network)
    policy.reset(embedding=embedding())
    logits.append(policy.step(frames(1)[0]).logits)
    if len(logits) == 1:
      programs = policy_module._step._cache_size()
  assert policy_module._step._cache_size() == programs and np.abs(logits[0] - logits[1]).max() > 1e-3


def test_reset_empties_the_cache(model):
  policy = Policy(model)
  policy.reset(embedding=embedding())
  first = policy.step(frames(1)[0])
  policy.step(frames(1, 1)[0])
  policy.reset(embedding=embedding())
  np.testing.assert_array_equal(policy.step(frames(1)[0]).logits, first.logits)


def test_instruction_as_text(model):
  policy = Policy(model, PolicyMetadata(embedding_id=instructions.HASHED_NGRAMS))
  policy.reset('reach the red circle')
  by_text = policy.step(frames(1)[0])
  policy.reset(embedding=instructions.hashed_ngrams('reach the red circle'))
  np.testing.assert_array_equal(policy.step(frames(1)[0]).logits, by_text.logits)


def test_instruction_by_a_table(model):
  encoder_id = 'universal-sentence-encoder-large/5'
  table = instructions.Table(encoder_id, ('pick up the can', 'open the drawer'), np.stack([embedding(1), embedding(2)]))
  metadata = PolicyMetadata(embedding_id=encoder_id)
  policy = Policy(model, metadata, table)
  policy.reset('open the drawer')
  by_text = policy.step(frames(1)[0])
  policy.reset(embedding=embedding(2))
  np.testing.assert_array_equal(policy.step(frames(1)[0]).logits, by_text.logits)
  with pytest.raises(ValueError, match='pick up the can'):
    policy.reset('pick up a can')
  with pytest.raises(ValueError, match=f'embeddings of .{encoder_id}.*given is .hashed-ngrams/1.'):
    Policy(model, metadata, instructions.HashedNgrams())


def test_images_are_resized_as_in_training(model):
  tf = pytest.importorskip('tensorflow')
  image = frames(1)[0]
  fitted = tf.cast(tf.image.resize_with_pad(image, 64, 64), tf.uint8).numpy()
  outputs = []
  for policy, frame in [(Policy(model, PolicyMetadata(image_size=(64, 64))), image), (Policy(model), fitted)]:
    policy.reset(embedding=embedding())
    outputs.append(policy.step(frame).logits)
  np.testing.assert_allclose(*outputs, atol=1e-2)


def test_bad_input(model):
  policy = Policy(model, PolicyMetadata(embedding_id='universal-sentence-encoder-large/5'))
  with pytest.raises(ValueError, match='reset'):
    policy.step(frames(1)[0])
  with pytest.raises(ValueError, match=r'(?s)universal-sentence-encoder-large/5.*embedding='):
    policy.reset('pick up the can')
  with pytest.raises(ValueError, match='either'):
    policy.reset()
  with pytest.raises(ValueError, match=r'\(511,\)'):
    policy.reset(embedding=embedding()[:-1])
  for number in (np.nan, np.inf, 1e300, 1e30):  # 1e300 is infinite in float32
    with pytest.raises(NonFiniteInput, match='embedding holds NaN'):
      policy.reset(embedding=np.full(512, number))
  policy.reset(embedding=embedding())
  with pytest.raises(ValueError, match=r'float32 \(1, 40, 32, 3\)'):
    policy.step(frames(1)[0].astype(np.float32))


@pytest.mark.parametrize('number', [np.nan, np.inf])
def test_weights_that_are_not_finite_give_no_action(number):
  """One such weight in 10,000 used to mean token 0, the lowest bound of every number."""
  damaged = build(TINY, seed=0)
  bias = damaged.transformer.output.bias
  bias[...] = bias[...].at[3].set(number)
  policy = Policy(damaged)
  policy.reset(embedding=embedding())
  with pytest.raises(NonFiniteOutput, match='in slot 0: there is no action, hold the robot'):
    policy.step(frames(1)[0])
  with pytest.raises(ValueError, match='no episode: call reset'):
    policy.step(frames(1)[0])


def test_chunks_of_a_codec_and_texts_that_are_none(monkeypatch):
  pytest.importorskip('tokenizers', reason="needs the extra 'language'")
  config = tiny_rt2.fast()
  image, counts = frames(1)[0], []
  for seed in range(6):
    policy = Policy(tiny_rt2.randomised(config, seed))
    policy.reset(embedding=tiny_rt2.prompts(1, 6)[0])
    out = policy.step(image)
    np.testing.assert_allclose(config.action_codec.decode(out.tokens), out.plan, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(list(out.action.values())), out.plan[0])
    assert out.plan.shape == (4, 3) and out.confidence.shape == out.tokens.shape and out.confidence.max() <= 1
    counts.append(len(out.tokens))
  assert min(counts) < 12
  step = policy_module._step

  def without_its_first_token(*args):
    caches, logits = step(*args)
    return caches, logits.at[:, 0].set(jnp.zeros(config.action_codec.size + 1).at[-1].set(1))
  monkeypatch.setattr(policy_module, '_step', without_its_first_token)
  with pytest.raises(NonFiniteOutput, match='tokens that stand for no actions, in slot 0: there is no'):
    policy.step(image)
  with pytest.raises(ValueError, match='has no episode'):
    policy.step(image)


def in_half(config):
  """A network that computes in bfloat16, without zeros in its matrices."""
  model, random = build(dataclasses.replace(config, dtype='bfloat16'), seed=0), np.random.default_rng(0)
  parameters.assign(model, {name: value + 0.1 * random.normal(size=value.shape) if value.ndim > 1 else value
                            for name, value in parameters.stored(model).items()})
  return model


HALVES = {
    'rt1': TINY, 'multiview': VIEWS, 'grounded': tiny_rt2.GROUNDED, 'adapted': tiny_rt2.ADAPTED,
    **{family: RT2Config(action_spec=tiny_rt2.SPEC, backbone=backbone, prompt_length=6, action_head='text', window=2,
                         action_ids=tuple(range(20, 28))) for family, backbone in public_backbones.CONFIGS.items()}}


@pytest.mark.parametrize('name', [
    'grounded', 'paligemma', *(pytest.param(name, marks=pytest.mark.slow) for name in HALVES
                               if name not in ('grounded', 'paligemma'))])
def test_a_policy_in_bfloat16_holds_its_kernels_in_it(name, tmp_path):
  """In half the memory, with equal bits."""
  config = HALVES[name]
  model = in_half(config)
  policy, before = load_policy(saved_run.save(model, tmp_path, '')), Policy(model)
  held, whole = (parameters.named(m) for m in (policy.model, model))
  kernels = {name for name, value in held.items() if value.dtype == jnp.bfloat16}
  assert sum(whole[name].nbytes for name in kernels) > 0.5 * sum(value.nbytes for value in whole.values())
  for each in (policy, before):
    each.reset(embedding=np.arange(2, 8) if config.reads_prompts else embedding())
  views = (config.views,) if config.views > 1 else ()
  state = np.ones(config.proprioception_size, np.float32) if config.proprioception_size else None
  for image in np.random.default_rng(0).integers(0, 256, (3, *views, 20, 20, 3), dtype=np.uint8):
    ours, expected = policy.step(image, state), before.step(image, state)
    np.testing.assert_array_equal(ours.logits, expected.logits)
    np.testing.assert_array_equal(ours.plan, expected.plan)


def test_one_robot_without_an_action_does_not_stop_the_others(model):
  """The error holds their outputs; their caches go on, and a reset empties the robot's own."""
  name = 'image_encoder/film/add/kernel'  # zero in a new model, which then ignores its instruction
  values = parameters.named(model)
  model = from_values(TINY, values | {name: np.full(values[name].shape, 0.01, np.float32)})
  together, alone = BatchPolicy(model, 3), Policy(model)
  images = frames(4)
  alone.reset(embedding=embedding(1))
  for slot in range(3):
    together.reset(slot, embedding=embedding(slot))
  together._instructions[2] = np.full(512, 3e38, np.float32)  # reset refuses it
  with pytest.raises(NonFiniteOutput, match='in slot 2:') as error:
    together.step(images[:2], [2, 1])
  assert error.value.outputs[0] is None
  np.testing.assert_allclose(error.value.outputs[1].logits, alone.step(images[1]).logits, atol=2e-5)
  assert [together.in_episode(slot) for slot in range(3)] == [True, True, False]
  together.reset(2, embedding=embedding(2))
  output = together.step(images[:2], [2, 1])[1]
  np.testing.assert_allclose(output.logits, alone.step(images[1]).logits, atol=2e-5)


def test_threads_share_a_policy(model):
  """Four robots in four threads, and a fifth thread that changes an instruction: each acts as alone."""
  together, images = BatchPolicy(model, 4), frames(30)
  alone = [Policy(model) for _ in range(4)]

  def drive(slot):
    together.reset(slot, embedding=embedding(slot))
    return np.stack([together.step(image[None], [slot])[0].logits for image in images])

  def change():
    for _ in range(100):
      together.set_instruction(3, embedding=embedding(3))
      together.cache(3)

  with concurrent.futures.ThreadPoolExecutor(5) as pool:
    changing = pool.submit(change)
    found = list(pool.map(drive, range(4)))
    changing.result()
  for slot, policy in enumerate(alone):
    policy.reset(embedding=embedding(slot))
    np.testing.assert_allclose(found[slot], np.stack([policy.step(image).logits for image in images]), atol=2e-5)


def test_threads_share_one_robot(model):
  """Six hundred steps of two threads on one cache; each is a step of some order of the frames."""
  policy, image = Policy(model), frames(1)[0]
  policy.reset(embedding=embedding())
  for _ in range(TINY.window):
    expected = policy.step(image).logits
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    outputs = list(pool.map(lambda _: policy.step(image), range(600)))
  for output in outputs:
    np.testing.assert_array_equal(output.logits, expected)


VARIANTS = {
    'official': TINY,
    'rt1_x': dataclasses.replace(TINY, padding='front', images_see_actions=False, feed_forward='swiglu'),
    'images do not see actions, back': dataclasses.replace(TINY, images_see_actions=False)}


@pytest.mark.parametrize('config', VARIANTS.values(), ids=VARIANTS)
def test_decode_frame_equals_decode_at_that_frame(config):
  """Positions that no token attends to change no logit, wherever the newest frame is."""
  network = Compiled(build(config, seed=1))
  tokens = jax.random.normal(jax.random.key(0), (2, config.window, config.image_tokens, config.token_width))
  window = network.decode(tokens)
  for slot in range(config.window):
    frame = network.decode_frame(tokens, jnp.array([slot, config.window - 1]))
    np.testing.assert_allclose(frame[0], window[0, slot], atol=2e-5)
    np.testing.assert_allclose(frame[1], window[1, -1], atol=2e-5)


def test_front_padding_equals_windows_with_black_frames_in_front():
  config = VARIANTS['rt1_x']
  network = build(config, seed=1)
  policy = Policy(network)
  policy.reset(embedding=embedding())
  images = frames(5)
  for step in range(5):
    frames_so_far = images[max(0, step + 1 - config.window):step + 1]
    black = config.window - len(frames_so_far)
    window = np.concatenate([np.zeros((black, *images.shape[1:]), np.uint8), frames_so_far])
    embeddings = np.concatenate([np.zeros((black, 512), np.float32), np.tile(embedding(), (len(frames_so_far), 1))])
    expected = np.asarray(network(window[None], embeddings[None]))[0, -1]
    np.testing.assert_allclose(policy.step(images[step]).logits, expected, atol=2e-5)


def test_robots_are_independent(model):
  """Three robots that start, pause and change their instruction at different times act as each does alone."""
  together, alone = BatchPolicy(model, 3), [Policy(model) for _ in range(3)]
  images = frames(30)
  for slot in range(3):
    together.reset(slot, embedding=embedding(slot))
    alone[slot].reset(embedding=embedding(slot))
  for step, slots in enumerate([[0, 1, 2], [2], [0, 2], [1, 0, 2], [1], [2, 1], [0, 1, 2]]):
    if step == 3:
      together.set_instruction(1, embedding=embedding(9))
      alone[1].set_instruction(embedding=embedding(9))
    if step == 4:
      together.reset(2, embedding=embedding(8))
      alone[2].reset(embedding=embedding(8))
    batch = images[3 * step:3 * step + len(slots)]
    for slot, image, out in zip(slots, batch, together.step(batch, slots), strict=True):
      expected = alone[slot].step(image)
      np.testing.assert_allclose(out.logits, expected.logits, atol=2e-5)
      np.testing.assert_array_equal(out.tokens, expected.tokens)


def test_bad_slots(model):
  policies = BatchPolicy(model, 2)
  policies.reset(0, embedding=embedding())
  with pytest.raises(ValueError, match='slot 1 has no episode'):
    policies.step(frames(2))
  with pytest.raises(ValueError, match='slot is 2, expected 0 to 1'):
    policies.reset(2, embedding=embedding())
  with pytest.raises(ValueError, match='different ones'):
    policies.step(frames(2), [0, 0])
  with pytest.raises(ValueError, match=r'uint8 \[1, H, W, 3\]'):
    policies.step(frames(2), [0])
  with pytest.raises(ValueError, match='robots is 0'):
    BatchPolicy(model, 0)
  assert policies.step(frames(0), []) == []


@pytest.mark.parametrize('call', ['_step', '_write'])
def test_recovers_from_a_failure_of_the_device(model, monkeypatch, call):
  """A call that overwrites the caches and fails raises one clear error; after a reset all slots work as before."""
  policies, images = BatchPolicy(model, 2), frames(3)
  for slot in range(2):
    policies.reset(slot, embedding=embedding(slot))
  first = policies.step(images[:2])
  run = getattr(policy_module, call)

  def fails(*arguments):
    run(*arguments)
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

  monkeypatch.setattr(policy_module, call, fails)
  with pytest.raises(RuntimeError, match=r'RESOURCE_EXHAUSTED.*call reset for every slot'):
    policies.step(images[:2]) if call == '_step' else policies.reset(0, embedding=embedding())
  monkeypatch.undo()
  assert not policies.in_episode(0) and not policies.in_episode(1)
  policies.reset(1, embedding=embedding(1))
  with pytest.raises(ValueError, match='slot 0 has no episode'):
    policies.step(images[:2])
  policies.reset(0, embedding=embedding(0))
  for again, expected in zip(policies.step(images[:2]), first, strict=True):
    np.testing.assert_array_equal(again.logits, expected.logits)


def test_several_views_and_proprioception():
  """A step equals the model on the same frame; the state and every view are required."""
  network = build(VIEWS, seed=2)
  policies = BatchPolicy(network, 2)
  for slot in range(2):
    policies.reset(slot, embedding=embedding(slot))
  images, states = frames(4).reshape(2, 2, 40, 32, 3), np.random.default_rng(3).normal(size=(2, 7)).astype(np.float32)
  outputs = policies.step(images, proprioception=states)
  for out, views, state, slot in zip(outputs, images, states, (0, 1), strict=True):
    expected = np.asarray(network(views[None, None], embedding(slot)[None], state[None, None]))[0, 0]
    np.testing.assert_allclose(out.logits, expected, atol=2e-5)
  with pytest.raises(ValueError, match=r'proprioception has shape \(2, 0\), expected float32 \[2, 7\]'):
    policies.step(images)
  with pytest.raises(ValueError, match=r'expected uint8 \[2, 2, H, W, 3\]: 2 views'):
    policies.step(images[:, 0], proprioception=states)
