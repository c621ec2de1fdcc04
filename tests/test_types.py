"""A user's mistake is a ValueError, and a struct of conditions a pytree."""

import jax
import jax.numpy as jnp

from ldm_jax.types import Conditioning, UserError


def test_absent_fields_are_no_leaves():
  assert jax.tree.leaves(Conditioning()) == []
  cond = Conditioning(context=jnp.zeros((1, 2, 3)))
  assert [x.shape for x in jax.tree.leaves(cond)] == [(1, 2, 3)]


def test_user_errors_are_value_errors():
  assert issubclass(UserError, ValueError)
