"""The release's conditioning, as a `task` section: part of compvis_config."""

from typing import Any

from ldm_jax.interop import masked_image
from ldm_jax.interop.compvis_yaml import Section, shown
from ldm_jax.types import UserError

TEXTS = ('BERTEmbedder', 'FrozenCLIPEmbedder', 'TransformerEmbedder')
CONDITIONERS = (*TEXTS, 'ClassEmbedder', 'Identity', 'SpatialRescaler')
# Of a model that is told a masked image: its channels, by name and in order.
HYBRID_KEYS = ('concat_keys', 'masked_image_key')
# Rows of the released tables of classes, and whether the last is the null.
_WITH_NULL = {1000: False, 1001: True}


def task(
  params: Section, width: int, hybrid: bool, null_label: bool | None = None
) -> dict[str, Any]:
  """The `task` section of a model's parameters.

  Args:
    params: the model's.
    width: of the U-Net's context.
    hybrid: whether a masked image is told beside the text.
    null_label: whether the last of the classes is the null, if that is said.
  """
  key = params.values.get('conditioning_key')
  if key is None:  # The release's default.
    key = 'concat' if params.flag('concat_mode', True) else 'crossattn'
  if key == 'hybrid' and not hybrid:
    raise UserError(
      f'{params.path}: {params.place("conditioning_key")}={key!r} is known of '
      'LatentInpaintDiffusion alone: another class may concatenate anything.'
    )
  stage = params.values.get('cond_stage_config')
  if stage == '__is_unconditional__' and not hybrid:
    return {'name': 'unconditional'}
  if stage == '__is_first_stage__' and not hybrid:
    _require(params, key, 'concat')
    return {'name': 'inpainting'}
  stage = params.section('cond_stage_config')
  target = stage.target(TEXTS if hybrid else CONDITIONERS)
  values = stage.section('params', optional=True)
  if target == 'SpatialRescaler':
    _require(params, key, 'concat')
    return _rescaler(values)
  if target == 'Identity' and key == 'concat':
    return {'name': 'super_resolution'}
  _require(params, key, 'hybrid' if hybrid else 'crossattn')
  if target == 'Identity':
    return {'name': 'retrieval', 'width': width}
  # Tokens of words or of boxes: the network is the same.
  captions = ('caption', 'txt', 'text')
  caption = hybrid or params.values.get('cond_stage_key') in captions
  section = _context_encoder(target, values, width, caption)
  if section['name'] == 'class_label':
    if null_label is None:
      null_label = _null_label(values, section['num_classes'])
    section['null_label'] = null_label
  if section['width'] != width:
    raise UserError(
      f'{params.path}: the conditioner gives vectors of width '
      f'{section["width"]}, but context_dim={width} in the U-Net.'
    )
  return section | _masked(params, section['name']) if hybrid else section


def _null_label(values: Section, rows: int) -> bool | None:
  """Whether the last class is the null: of the release's own, by their count.

  Its training drops no condition, so a config has no word for it.
  """
  if rows not in _WITH_NULL:
    values.notes.append(
      f'{values.place("n_classes")}={rows}: nothing says whether the last is '
      'the null. Guidance takes it for that, as the release does, and it may '
      "be drawn as a class too; task.null_label in the workdir's config.json "
      'says which it is, true or false.'
    )
  return _WITH_NULL.get(rows)


def _masked(params: Section, text: str) -> dict[str, Any]:
  """The fields of the task of a masked image and a text."""
  image = params.values.get('masked_image_key', 'masked_image')
  keys = params.values.get('concat_keys', ['mask', image])
  if not isinstance(keys, list) or len(keys) != 2 or keys.count(image) != 1:
    raise params.wrong('concat_keys', f'the mask and {shown(image)}, a list')
  names = {text: both for both, text in masked_image.WITH_TEXT.items()}
  return {
    **masked_image.STABLE,
    'name': names[text],
    'mask_first': keys[1] == image,
  }


def _require(params: Section, key: Any, wanted: str):
  if key != wanted:
    raise UserError(
      f'{params.path}: {params.place("conditioning_key")}={shown(key)} is not '
      f'supported with that cond_stage_config; only {wanted!r} is.'
    )


def _rescaler(values: Section) -> dict[str, Any]:
  known = ('in_channels', 'method', 'n_stages', 'out_channels')
  values.check(known, (), {'bias': False, 'multiplier': 0.5})
  # At a half exactly they are the same.
  values.choice('method', ('bilinear', 'area'), 'bilinear')
  return {
    'name': 'semantic',
    'num_classes': values.integer('in_channels', 3),
    'channels': values.integer('out_channels'),
    'stages': values.integer('n_stages', 1),
  }


def _context_encoder(
  target: str, values: Section, width: int, caption: bool
) -> dict[str, Any]:
  ignored = ('device', 'key', 'version')
  if target == 'ClassEmbedder':
    values.check(('embed_dim', 'n_classes'), ignored)
    return {
      'name': 'class_label',
      'num_classes': values.integer('n_classes', 1000),
      'width': values.integer('embed_dim'),
    }
  if target == 'FrozenCLIPEmbedder':
    # The rest of its size is in the checkpoint: see compvis.with_clip_sizes.
    values.check(('max_length',), ignored)
    length = values.integer('max_length', 77)
    return {'name': 'clip_text', 'width': width, 'length': length}
  known = ('embedding_dropout', 'max_seq_len', 'n_embed', 'n_layer',
           'use_tokenizer', 'vocab_size')  # fmt: skip
  values.check(known, ignored)
  bert = target == 'BERTEmbedder'
  tokenizer = values.flag('use_tokenizer', bert)
  length = values.integer('max_seq_len', 77)
  name = 'text' if caption or tokenizer else 'layout'
  # Three tokens an object; without two more there is no room for the crop's.
  boxes = {'crop_tokens': False} if name == 'layout' and length % 3 == 0 else {}
  return {
    'name': name,
    **boxes,
    'vocab_size': values.integer('vocab_size', 30522 if bert else None),
    'length': length,
    'width': values.integer('n_embed'),
    'depth': values.integer('n_layer'),
    'dropout': values.number('embedding_dropout', 0.0),
  }
