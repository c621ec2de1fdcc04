"""The graph's names reach every weight of the ported files, each once."""

import numpy as np

from ldm_jax.evaluation import inception_graph
from tests.evaluation import released


def test_the_graphs_arrays_are_the_ported_files():
  ported = released.inception()
  wanted = {
    n for n in ported if not n.endswith('num_batches_tracked')
  } - {'fc.bias'}  # fmt: skip
  graph = {'softmax/weights': ported['fc.weight'].T, 'other': np.zeros(3)}
  for scope, name in inception_graph._convolutions():
    graph[f'{scope}/conv2d_params'] = ported[f'{name}.conv.weight'].transpose(
      2, 3, 1, 0
    )
    for theirs, ours in (
      ('gamma', 'weight'),
      ('beta', 'bias'),
      ('moving_mean', 'running_mean'),
      ('moving_variance', 'running_var'),
    ):
      graph[f'{scope}/batchnorm/{theirs}'] = ported[f'{name}.bn.{ours}']
  assert inception_graph.is_graph(graph)
  assert not inception_graph.is_graph(ported)
  found = inception_graph.to_torch(graph)
  assert set(found) == wanted
  for name, value in found.items():
    np.testing.assert_array_equal(value, ported[name], err_msg=name)


def test_names_known_from_the_published_graph():
  table = dict(inception_graph._convolutions())
  assert table['conv'] == 'Conv2d_1a_3x3'
  assert table['mixed/tower_1/conv_2'] == 'Mixed_5b.branch3x3dbl_3'
  assert table['mixed_3/conv'] == 'Mixed_6a.branch3x3'
  assert table['mixed_6/conv'] == 'Mixed_6d.branch1x1'  # sFID's layer.
  assert table['mixed_8/tower_1/conv_3'] == 'Mixed_7a.branch7x7x3_4'
  assert table['mixed_10/tower_1/mixed/conv_1'] == 'Mixed_7c.branch3x3dbl_3b'
  assert len(table) == len(set(table.values())) == 94
