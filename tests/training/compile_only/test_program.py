# ruff: noqa: E501 (a compiler writes long lines)
"""Work, messages and buffers of compiled programs: texts as a TPU's compiler writes them, and programs of this CPU."""
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers.tiny_rt1 import TINY
from jax.extend import core

from rtjax import models
from rtjax.training.compile_only.hlo import Sources, parse
from rtjax.training.compile_only.program import Program

STEP = '''HloModule jit_step, is_scheduled=true

FileNames
1 "/home/user/rtjax/training/step.py"
2 "/home/user/rtjax/models/rt1.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=40 end_line=40 column=2 end_column=2}
2 {file_name_id=2 function_name_id=2 line=7 end_line=7 column=2 end_column=2}
3 {file_name_id=1 function_name_id=2 line=50 end_line=7 column=2 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=3 parent_frame_id=2}

%fused (p0: bf16[8,256], p1: bf16[256,128]) -> f32[8,128] {
  %p0 = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %convolution.1 = f32[8,128]{1,0:T(8,128)} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%written (q0: f32[5,8,128], q1: f32[8,128], q2: s32[]) -> f32[5,8,128] {
  %q0 = f32[5,8,128]{2,1,0:T(8,128)} parameter(0)
  %q1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %q2 = s32[]{:T(128)} parameter(2)
  %bitcast.1 = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%q1)
  ROOT %dynamic-update-slice.1 = f32[5,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%q0, %bitcast.1, %q2, %q2, %q2)
}

%body (b: (s32[], bf16[8,256], bf16[256,128], f32[5,8,128])) -> (s32[], bf16[8,256], bf16[256,128], f32[5,8,128]) {
  %b = (s32[]{:T(128)}, bf16[8,256]{1,0:T(8,128)(2,1)}, bf16[256,128]{1,0:T(8,128)(2,1)S(1)}, /*index=3*/f32[5,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%b), index=0
  %x = bf16[8,256]{1,0:T(8,128)(2,1)} get-tuple-element(%b), index=1
  %w = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%b), index=2
  %all = f32[5,8,128]{2,1,0:T(8,128)} get-tuple-element(%b), index=3
  %fusion.1 = f32[8,128]{1,0:T(8,128)} fusion(%x, %w), kind=kOutput, calls=%fused, metadata={op_name="jit(step)/transpose(jvp())/dot_general" stack_frame_id=3}
  %fusion.2 = f32[5,8,128]{2,1,0:T(8,128)} fusion(%all, %fusion.1, %i), kind=kLoop, calls=%written
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[8,256]{1,0:T(8,128)(2,1)}, bf16[256,128]{1,0:T(8,128)(2,1)S(1)}, /*index=3*/f32[5,8,128]{2,1,0:T(8,128)}) tuple(%i, %x, %w, %fusion.2)
}

%condition (c: (s32[], bf16[8,256], bf16[256,128], f32[5,8,128])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(5)
  %c = (s32[]{:T(128)}, bf16[8,256]{1,0:T(8,128)(2,1)}, bf16[256,128]{1,0:T(8,128)(2,1)S(1)}, /*index=3*/f32[5,8,128]{2,1,0:T(8,128)}) parameter(0)
  %get-tuple-element.9 = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%get-tuple-element.9, %constant.5), direction=LT
}

ENTRY %main (x: bf16[8,256], w: bf16[256,128]) -> f32[5,8,128] {
  %x.1 = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x"}
  %w.1 = bf16[256,128]{1,0:T(8,128)(2,1)} parameter(1), metadata={op_name="w"}
  %copy-start = (bf16[256,128]{1,0:T(8,128)(2,1)S(1)}, bf16[256,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%w.1)
  %copy-done = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %constant.1 = s32[]{:T(128)} constant(0)
  %stack = f32[5,8,128]{2,1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer", metadata={op_name="stack"}
  %tuple.2 = (s32[]{:T(128)}, bf16[8,256]{1,0:T(8,128)(2,1)}, bf16[256,128]{1,0:T(8,128)(2,1)S(1)}, /*index=3*/f32[5,8,128]{2,1,0:T(8,128)}) tuple(%constant.1, %x.1, %copy-done, %stack)
  %while.1 = (s32[]{:T(128)}, bf16[8,256]{1,0:T(8,128)(2,1)}, bf16[256,128]{1,0:T(8,128)(2,1)S(1)}, /*index=3*/f32[5,8,128]{2,1,0:T(8,128)}) while(%tuple.2), condition=%condition, body=%body
  %get-tuple-element.8 = f32[5,8,128]{2,1,0:T(8,128)} get-tuple-element(%while.1), index=3
  ROOT %all-reduce.1 = f32[5,8,128]{2,1,0:T(8,128)} all-reduce(%get-tuple-element.8), replica_groups=GROUPS, to_apply=%add
}
'''
ROW, STACK, WEIGHTS = 4 * 8 * 128, 4 * 5 * 8 * 128, 2 * 256 * 128


@pytest.mark.parametrize('groups, size', [
    ('{{0,1,2,3}}', 4), ('[2,4]<=[8]', 4), ("mesh['data'=4,'fsdp'=2] {'data','fsdp'}", 8), ('{{0},{1}}', 1)])
def test_work_of_a_loop_and_its_messages(groups, size):
  cost = Program(STEP.replace('GROUPS', groups)).cost(lambda flops, size: 1.0 if flops else 0.0)
  assert cost.flops == 5 * 2 * 8 * 128 * 256
  # The weights are read once, into faster memory; the stack is written a row at a time, in place.
  products, rows = 2 * 8 * 256 + ROW, ROW + 4 + ROW  # 4 bytes are the row's number
  assert cost.hbm_bytes == WEIGHTS + 5 * (products + rows) + 2 * STACK
  assert cost.messages == {'all-reduce': (1, pytest.approx(2 * STACK * (size - 1) / size))}
  assert cost.seconds == 5


def test_buffers_at_the_peak():
  found = [(b.count, b.array.text, b.size, b.source) for b in Program(STEP.replace('GROUPS', '{{0,1}}')).live_at_peak()]
  assert found == [(1, 'f32[5,8,128]', STACK, 'stack'), (1, 'f32[5,8,128]', STACK, 'all-reduce.1')]


def test_sources_are_lines_of_the_models():
  computations, _ = parse(STEP)
  table = computations['body']
  assert Sources(STEP).of(table['fusion.1'], table) == 'rtjax/models/rt1.py:7 (backward)'


def test_tiles_pad_the_fastest_dimensions():
  text = ('ENTRY %main (p: f32[3,5,100]) -> f32[3,5,100] {\n'
          '  ROOT %p = f32[3,5,100]{1,2,0:T(8,128)} parameter(0)\n}\n')
  computations, entry = parse(text)
  assert computations[entry]['p'].arrays[0].size == 4 * 3 * 128 * 104


def test_a_scan_compiled_here():
  def loss(w, x):
    return jnp.sum(jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ w), None), x, None, length=7)[0])

  w, x = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((128, 64), jnp.float32)
  compiled = jax.jit(jax.grad(loss)).lower(w, x).compile()
  program = Program(compiled.as_text())
  assert program.cost(lambda flops, size: 0.0).flops == 7 * 3 * 2 * 128 * 64 * 64  # forward, and two gradients
  live = sum(b.size for b in program.live_at_peak())
  assert live == pytest.approx(compiled.memory_analysis().temp_size_in_bytes, rel=0.2)


def products(size, kernel, stride, before, after):
  """FLOPs per channel pair of a square convolution, without products with padding."""
  places = [stride * out + tap - before for out in range((size + before + after - kernel) // stride + 1)
            for tap in range(kernel)]
  return 2 * sum(0 <= place < size for place in places) ** 2


@pytest.mark.parametrize('size, kernel, stride, padding', [
    (33, 3, 2, (0, 0)), (32, 3, 2, (0, 1)), (16, 5, 1, (2, 2))])
@pytest.mark.parametrize('groups', [1, 32])
def test_a_convolution_and_its_gradients_compiled_here(size, kernel, stride, padding, groups):
  def loss(weights, x):
    y = jax.lax.conv_general_dilated(x, weights, (stride, stride), [padding] * 2, feature_group_count=groups,
                                     dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return jnp.sum(jnp.square(y))

  weights = jax.ShapeDtypeStruct((kernel, kernel, 32 // groups, 32), jnp.float32)
  x = jax.ShapeDtypeStruct((4, size, size, 32), jnp.float32)
  forward = 4 * (32 // groups) * 32 * products(size, kernel, stride, *padding)
  # XLA forms the gradient of a grouped kernel on a CPU with all pairs of channels.
  for function, count in ((loss, 1), (jax.grad(loss, (0, 1)), 3))[:1 if groups > 1 else 2]:
    program = Program(jax.jit(function).lower(weights, x).compile().as_text())
    assert program.cost(lambda flops, size: 0.0).flops == count * forward


# Forward, gradient of the input, gradient of the kernel, as a TPU's compiler writes them: arrays, kernel, result,
# attributes. IN is 32x32, OUT is what the kernel makes of it.
FORMS = {
    'depthwise': [
        ('4,IN,6', 'K,K,1,6', '4,OUT,6',
         'size=KxK stride=SxS pad=PAD}, dim_labels=b01f_01io->b01f, feature_group_count=6'),
        ('4,OUT,6', 'K,K,6,1', '4,IN,6',
         'size=KxK pad=BACK lhs_dilate=SxS rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f, feature_group_count=6'),
        ('4,IN,6', '4,OUT,6', 'K,K,1,6',
         'size=WxW pad=PAD rhs_dilate=SxS}, dim_labels=f01b_i01o->01bf, batch_group_count=6')],
    'dense': [
        ('4,IN,6', 'K,K,6,8', '4,OUT,8', 'size=KxK stride=SxS pad=PAD}, dim_labels=b01f_01io->b01f'),
        ('4,OUT,8', 'K,K,6,8', '4,IN,6', 'size=KxK pad=BACK lhs_dilate=SxS rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f'),
        ('4,IN,6', '4,OUT,8', 'K,K,6,8', 'size=WxW pad=PAD rhs_dilate=SxS}, dim_labels=f01b_i01o->01bf')]}


@pytest.mark.parametrize('kernel, stride, before, after', [(3, 1, 1, 1), (3, 2, 0, 1), (5, 1, 2, 2), (5, 2, 1, 2)])
@pytest.mark.parametrize('form', range(3))
@pytest.mark.parametrize('kind, channel_pairs', [('depthwise', 6), ('dense', 48)])
def test_each_form_of_a_convolution_counts_its_products(kind, channel_pairs, form, kernel, stride, before, after):
  out = (32 + before + after - kernel) // stride + 1
  back = kernel - 1 - before, 32 - 1 + before - (out - 1) * stride  # of the gradient, spread over the input
  x, weights, result, attributes = FORMS[kind][form]
  text = (f'ENTRY %main (a: f32[{x}], b: f32[{weights}]) -> f32[{result}] {{\n  %a = f32[{x}] parameter(0)\n'
          f'  %b = f32[{weights}] parameter(1)\n  ROOT %c = f32[{result}] convolution(%a, %b), window={{{attributes}\n}}\n')
  for name, value in (('BACK', f'{back[0]}_{back[1]}x{back[0]}_{back[1]}'), ('PAD', f'{before}_{after}x{before}_{after}'),
                      ('IN', '32,32'), ('OUT', f'{out},{out}'), ('SxS', f'{stride}x{stride}'),
                      ('KxK', f'{kernel}x{kernel}'), ('K,K', f'{kernel},{kernel}'), ('WxW', f'{out}x{out}')):
    text = text.replace(name, value)
  flops = Program(text).cost(lambda flops, size: 0.0).flops
  assert flops == 4 * channel_pairs * products(32, kernel, stride, before, after)


def matrix_products(program: core.Jaxpr) -> int:
  """FLOPs of a traced program's matrix products, on a CPU."""
  count = 0
  for e in program.eqns:
    if e.primitive.name == 'dot_general':
      (contracted, _), _ = e.params['dimension_numbers']
      count += 2 * math.prod(e.outvars[0].aval.shape) * math.prod(e.invars[0].aval.shape[n] for n in contracted)
    elif e.primitive.name == 'cond':  # of platforms, the CPU first
      count += matrix_products(e.params['branches'][0].jaxpr)
    else:
      assert e.primitive.name not in ('conv_general_dilated', 'while')
      count += e.params.get('length', 1) * sum(map(matrix_products, core.jaxprs_in_params(e.params)))
  return count


def test_the_forward_pass_of_rt1_counts_its_matrix_products():
  graphdef, variables = nnx.split(models.abstract(TINY))
  forward = jax.jit(lambda variables, images, embeddings: nnx.merge(graphdef, variables)(images, embeddings))
  traced = forward.trace(variables, jax.ShapeDtypeStruct((2, TINY.window, 32, 40, 3), jnp.uint8),
                         jax.ShapeDtypeStruct((2, 512), jnp.float32))
  program = Program(traced.lower().compile().as_text())
  expected = matrix_products(traced.jaxpr.jaxpr)
  assert expected > 1e6
  assert program.cost(lambda flops, size: 0.0).flops == pytest.approx(expected, rel=0.02)


def test_zeros_of_a_batched_product_do_not_count():
  """Such as 8 products of 4x16 and 16x32, written as a convolution by a TPU's compiler."""
  text = ('ENTRY %main (a: f32[8,4,16], b: f32[8,16,32]) -> f32[8,4,32] {\n'
          '  %a = f32[8,4,16]{2,1,0} parameter(0)\n  %b = f32[8,16,32]{2,1,0} parameter(1)\n'
          '  ROOT %c = f32[8,4,32]{2,1,0} convolution(%a, %b), window={size=8 stride=7 pad=0_0 lhs_dilate=8}, '
          'dim_labels=0bf_0io->0bf\n}\n')
  assert Program(text).cost(lambda flops, size: 0.0).flops == 8 * 2 * 4 * 16 * 32
