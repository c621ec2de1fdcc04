"""The names of Inception in TensorFlow's graph, as the ported files' names."""

from collections.abc import Iterator, Mapping

import numpy as np

_STEM = ('1a_3x3', '2a_3x3', '2b_3x3', '3b_1x1', '4a_3x3')
# (graph's scope of a branch, its convolutions' names in the ported files).
_A = (
  ('', ('branch1x1',)),
  ('tower/', ('branch5x5_1', 'branch5x5_2')),
  ('tower_1/', tuple(f'branch3x3dbl_{i}' for i in (1, 2, 3))),
  ('tower_2/', ('branch_pool',)),
)
_B = (('', ('branch3x3',)), ('tower/', _A[2][1]))
_C = (
  ('', ('branch1x1',)),
  ('tower/', tuple(f'branch7x7_{i}' for i in (1, 2, 3))),
  ('tower_1/', tuple(f'branch7x7dbl_{i}' for i in (1, 2, 3, 4, 5))),
  ('tower_2/', ('branch_pool',)),
)
_D = (
  ('tower/', ('branch3x3_1', 'branch3x3_2')),
  ('tower_1/', tuple(f'branch7x7x3_{i}' for i in (1, 2, 3, 4))),
)
_E = (
  ('', ('branch1x1',)),
  ('tower/', ('branch3x3_1',)),
  ('tower/mixed/', ('branch3x3_2a', 'branch3x3_2b')),
  ('tower_1/', ('branch3x3dbl_1', 'branch3x3dbl_2')),
  ('tower_1/mixed/', ('branch3x3dbl_3a', 'branch3x3dbl_3b')),
  ('tower_2/', ('branch_pool',)),
)
_BLOCKS = {
  '5b': _A, '5c': _A, '5d': _A, '6a': _B, '6b': _C, '6c': _C, '6d': _C,
  '6e': _C, '7a': _D, '7b': _E, '7c': _E,
}  # fmt: skip
_NORM = {
  'weight': 'gamma',
  'bias': 'beta',
  'running_mean': 'moving_mean',
  'running_var': 'moving_variance',
}


def is_graph(arrays: Mapping[str, np.ndarray]) -> bool:
  """Whether the names are the graph's."""
  return 'conv/conv2d_params' in arrays


def to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The graph's arrays under the ported names, in torch's layouts.

  What is missing is left out.
  """
  found = {}
  for graph, torch in _convolutions():
    rows = {f'{torch}.conv.weight': (f'{graph}/conv2d_params', (3, 2, 0, 1))}
    for theirs, ours in _NORM.items():
      rows[f'{torch}.bn.{theirs}'] = (f'{graph}/batchnorm/{ours}', None)
    for name, (source, order) in rows.items():
      if source in arrays:
        value = arrays[source]
        found[name] = value.transpose(order) if order else value
  if 'softmax/weights' in arrays:
    found['fc.weight'] = arrays['softmax/weights'].T
  return found


def _convolutions() -> Iterator[tuple[str, str]]:
  numbered = lambda stem, i: f'{stem}_{i}' if i else stem
  for i, name in enumerate(_STEM):
    yield numbered('conv', i), f'Conv2d_{name}'
  for block, (name, branches) in enumerate(_BLOCKS.items()):
    for scope, convs in branches:
      for i, conv in enumerate(convs):
        graph = f'{numbered("mixed", block)}/{scope}{numbered("conv", i)}'
        yield graph, f'Mixed_{name}.{conv}'
