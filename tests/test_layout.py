"""The repository's shape, as docs of the design have it: arrows point down."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'ldm_jax'

# What a folder or a top-level module may import, besides itself.
CORE = {'nn', 'diffusion', 'first_stage', 'models', 'tasks', 'data', 'types'}
ALLOWED = {
  'types': set(),
  'whole': {'types'},
  'nn': {'types'},
  'diffusion': {'types'},
  'data': {'command', 'types', 'whole'},  # data/verify.py is a program.
  'first_stage': {'nn', 'types'},
  'models': {'nn', 'types'},
  'tasks': {'nn', 'data', 'types'},
  'training': {'first_stage', 'models', 'diffusion', 'types', 'whole'},
  # Beside the design's arrows: scores of scenes read them with data's reader,
  # and foreign checkpoints hold schedules.
  'evaluation': {'first_stage', 'models', 'nn', 'data', 'types', 'whole'},
  # And their tokenizers are read as those of training are.
  'interop': {'first_stage', 'models', 'diffusion', 'data', 'types', 'whole'},
  'sections': {'types'},
  'parts': {'data', 'diffusion', 'first_stage', 'models', 'training', 'types'},
  'build': CORE | {'parts', 'sections', 'training'},
  'task_inputs': {'parts', 'types'},
  'edits': {'data', 'diffusion', 'types'},
  'guides': CORE | {'build', 'interop', 'same_model', 'training'},
  'programs': {'diffusion', 'first_stage', 'nn', 'parts', 'types'},
  'drawing': {
    'diffusion',
    'edits',
    'first_stage',
    'programs',
    'training',
    'types',
  },
  'pipeline': {
    'build',
    'diffusion',
    'drawing',
    'edits',
    'first_stage',
    'parts',
    'programs',
    'task_inputs',
    'training',
    'types',
  },
  # The scripts' own halves.
  'command': {'types'},
  'cli': {'command', 'types'},
  'latent_cache': {'data', 'first_stage', 'nn', 'training', 'types'},
  'same_model': CORE | {'build', 'sections', 'training'},
  'panel': {
    'data',
    'evaluation',
    'first_stage',
    'nn',
    'run',
    'training',
    'types',
  },
  'run': CORE
  | {
    'build',
    'parts',
    'same_model',
    'latent_cache',
    'evaluation',
    'interop',
    'pipeline',
    'training',
    '__init__',
  },
  'dry_run': {'build', 'nn', 'run', 'training', 'types'},
  'stablehlo': {'data', 'diffusion', 'nn', 'pipeline', 'types'},
  'weights': {'build', 'interop', 'parts', 'types'},
  'sampling_flags': {'cli', 'diffusion', 'types'},
  'splits': {'data', 'types'},
  'measuring': {
    'data',
    'diffusion',
    'evaluation',
    'first_stage',
    'interop',
    'pipeline',
    'run',
    'splits',
    'training',
    'types',
    'whole',
    '__init__',
  },
  '__init__': {'pipeline'},
}
SCRIPTS = {
  'cli', 'run', 'dry_run', 'pipeline', 'build', 'training', 'evaluation',
  'interop', 'data', 'types', 'stablehlo', 'weights', '__init__',
  'guides', 'measuring', 'panel', 'same_model', 'sampling_flags', 'splits',
  'task_inputs',
}  # fmt: skip

HEAVY = {'torch', 'tensorflow'}


def sources(folder, pattern='**/*.py'):
  for path in sorted(folder.glob(pattern)):
    yield path, ast.parse(path.read_text(encoding='utf-8'))


def imports(tree):
  """Yields 'a.b.c' for every import, wherever in the file it stands."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, 'imports are absolute'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def part_of(path):
  """The folder of a file of the package, or its own name at the top."""
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported_parts(tree):
  """The parts of ldm_jax that a file imports; itself as '__init__'."""
  for name in imports(tree):
    package, _, rest = name.partition('.')
    if package == 'ldm_jax':
      part = rest.split('.')[0]
      is_part = (PACKAGE / part).is_dir() or (PACKAGE / f'{part}.py').exists()
      yield part if part and is_part else '__init__'


def upward(tree, here, allowed):
  return sorted(set(imported_parts(tree)) - allowed - {here})


def test_imports_point_down():
  wrong = {}
  for path, tree in sources(PACKAGE):
    here = part_of(path)
    assert here in ALLOWED, f'{path.name} is new: say what it may import'
    if found := upward(tree, here, ALLOWED[here]):
      wrong[str(path.relative_to(ROOT))] = found
  assert not wrong


def test_scripts_reach_only_the_upper_parts():
  wrong = {
    path.name: found
    for path, tree in sources(ROOT, '*.py')
    if (found := upward(tree, None, SCRIPTS))
  }
  assert not wrong


def test_pipeline_reads_checkpoints_and_trains_nothing():
  _, tree = next(sources(PACKAGE, 'pipeline.py'))
  assert not [
    name
    for name in imports(tree)
    if name.startswith('ldm_jax.training') and name.endswith('_step')
  ]


def test_an_upward_import_would_be_seen():
  tree = ast.parse('def f():\n  from ldm_jax.training import optim')
  assert upward(tree, 'nn', ALLOWED['nn']) == ['training']
  tree = ast.parse('import ldm_jax.models.unet')
  assert upward(tree, 'tasks', ALLOWED['tasks']) == ['models']
  tree = ast.parse('from ldm_jax import load')
  assert upward(tree, 'nn', ALLOWED['nn']) == ['__init__']


def test_configs_import_ml_collections_and_configs_only():
  for path, tree in sources(ROOT / 'configs'):
    packages = {name.split('.')[0] for name in imports(tree)}
    assert packages <= {'ml_collections', 'configs'}, path


def test_diffusion_is_free_of_linen_and_configs():
  for path, tree in sources(PACKAGE / 'diffusion'):
    for name in imports(tree):
      assert not name.startswith(('flax.linen', 'ml_collections')), path


def test_only_scripts_and_build_know_configs():
  for path, tree in sources(PACKAGE):
    if part_of(path) != 'build':
      packages = {name.split('.')[0] for name in imports(tree)}
      assert 'ml_collections' not in packages, path


def test_data_touches_no_accelerator_library():
  # Its workers are forked and spawned: a JAX backend in one would take the
  # accelerator. `types` is the one door, and starts no backend.
  for path, tree in sources(PACKAGE / 'data'):
    packages = {name.split('.')[0] for name in imports(tree)}
    assert not packages & {'jax', 'jaxlib', 'flax', 'optax', 'orbax'}, path


def test_no_torch_anywhere_and_no_tensorflow_at_the_top_of_a_file():
  for path, tree in sources(PACKAGE):
    packages = {name.split('.')[0] for name in imports(tree)}
    assert not packages & {'torch', 'diffusers'}, path
    at_top = ast.Module([n for n in tree.body if not isinstance(
      n, (ast.FunctionDef, ast.ClassDef)
    )], [])  # fmt: skip
    packages = {name.split('.')[0] for name in imports(at_top)}
    assert 'tensorflow' not in packages, path


def test_importing_the_package_pulls_in_neither_torch_nor_tensorflow():
  program = (
    'import sys, ldm_jax, ldm_jax.build, ldm_jax.pipeline\n'
    f'print(sorted({HEAVY} & set(sys.modules)))\n'
    'import jax._src.xla_bridge as bridge\n'
    'print(bridge.backends_are_initialized())'
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  # Nor does importing start a backend, before flags or hosts are known.
  assert done.stdout.split() == ['[]', 'False']


def test_every_module_has_a_test():
  without = []
  for path, _ in sources(PACKAGE):
    lines = path.read_text(encoding='utf-8').splitlines()
    if path.name == '__init__.py' or len(lines) < 20:
      continue
    twin = ROOT / 'tests' / path.relative_to(PACKAGE)
    if not twin.with_name(f'test_{path.name}').exists():
      without.append(str(path.relative_to(ROOT)))
  assert not without


def test_no_file_is_called_utils():
  for folder in ('ldm_jax', 'configs', 'tests', 'benchmarks'):
    for path in (ROOT / folder).rglob('*.py'):
      assert path.stem not in ('util', 'utils', 'helpers', 'misc'), path


def test_pins_hold_what_the_project_asks_for():
  pins = {}
  for name in ('', '-dev', '-parity'):
    for line in (ROOT / f'requirements{name}.txt').read_text().splitlines():
      if not line.startswith('-r '):
        package, version = line.split('==')
        pins[package.lower().replace('_', '-')] = version
  assert not {'tensorflow', 'tensorflow-cpu'} & set(pins)
  text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
  for package in ('jax', 'flax', 'grain', 'torch', 'diffusers', 'pytest'):
    assert package in pins and f'"{package}' in text
