"""The CPU devices and the compile cache of the tests, and what they share.

JAX_NUM_CPU_DEVICES=1 keeps compiled programs for the next run of the tests and skips those marked
mesh; by default there are eight devices and every test runs, more slowly. `make test` does both.
PSANN_JAX_TEST_PLATFORM=cuda is for those marked gpu, which are skipped without it:
`PSANN_JAX_TEST_PLATFORM=cuda python -m pytest -n 0 -m gpu`.
"""

import atexit
import contextlib
import dataclasses
import functools
from importlib.metadata import version
import logging
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

# All of this is read when jax is imported, so it comes before every other import.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
_FLAGS = (
    # Eight devices share a few cores: a meeting of all may take long without being stuck.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=100 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=200 "
    # Hundreds of small programs run once or twice: compiling them is what takes the time.
    "--xla_backend_optimization_level=0"
)
if version("jaxlib").startswith("0.10."):  # XLA ends at a flag that it does not know
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"  # a third of the time to compile
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
_PLATFORM = os.environ.get("PSANN_JAX_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = _PLATFORM
_XLA_CACHE = Path("~/.cache/psann_jax/test-xla").expanduser()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_XLA_CACHE))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Programs for several CPU devices hang when they come from the cache (jaxlib 0.10.2).
_ONE_DEVICE = os.environ["JAX_NUM_CPU_DEVICES"] == "1"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true" if _ONE_DEVICE else "false"
_DATA_CACHE = tempfile.mkdtemp(prefix="psann_jax-test-data-")
os.environ["PSANN_JAX_CACHE"] = _DATA_CACHE
atexit.register(shutil.rmtree, _DATA_CACHE, ignore_errors=True)

from flax import nnx  # noqa: E402
from hypothesis import settings  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
import reference  # noqa: E402

from psann_jax import bases, sharding  # noqa: E402
from psann_jax.bases import registry  # noqa: E402
from psann_jax.model import LM  # noqa: E402
from psann_jax.nn.mlp import MLP  # noqa: E402
from psann_jax.nn.sine import SineConfig  # noqa: E402
from psann_jax.nn.wave import Wave  # noqa: E402
from psann_jax.ops import ssd, wkv6  # noqa: E402

# The same examples every time, and no clock: a busy machine must not fail a test.
settings.register_profile("tests", max_examples=25, deadline=None, derandomize=True, database=None)
settings.load_profile("tests")

# Rows of a dozen tokens are then several chunks, and several of what is computed at once; and
# the fewer levels of a chunk compile in half the time. tests/ops has the sizes of real use.
wkv6._SIZES["cpu"] = (4, 8)
ssd.CHUNK = 4

GOLDEN = Path(__file__).parent / "golden" / "psannlm"
TINY = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}


def pytest_collection_modifyitems(items):
    lacking = {}
    if _ONE_DEVICE:
        lacking["mesh"] = "needs eight devices: JAX_NUM_CPU_DEVICES is 1"
    if _PLATFORM == "cpu":
        lacking["gpu"] = "needs a GPU: PSANN_JAX_TEST_PLATFORM is not cuda"
    for item in items:
        for marker in set(lacking) & {m.name for m in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason=lacking[marker]))


@functools.cache
def _golden(name: str) -> reference.Reference:
    cases = reference.manifest(GOLDEN)["cases"]
    return reference.load(GOLDEN, next(c for c in cases if c["name"] == name))


@pytest.fixture(scope="session")
def golden():
    """golden(name): a case of tests/golden/psannlm."""
    return _golden


@functools.cache
def _tiny(name: str, dtype: str, **options) -> LM:
    base = bases.get(name)(**{**TINY, **options}, dtype=dtype)
    return LM(base, rngs=nnx.Rngs(0))


@pytest.fixture(scope="session")
def tiny():
    """tiny(base, ...): a two-layer LM of 16 features and 32 tokens, float32 unless said."""

    def make(name: str = "respsann", dtype: str = "float32", **options) -> LM:
        return _tiny(name, dtype, **options)

    return make


@dataclasses.dataclass(kw_only=True)
class Waves(bases.Recurrent):
    """The least of a base whose states have a fixed size: a causal convolution and an MLP."""

    def pattern(self):
        wave = functools.partial(Wave, kernel=3, dilation=4, act="gelu", sine=SineConfig())
        mlp = functools.partial(MLP, d_mlp=self.mlp_features, act="gelu", sine=SineConfig())
        return ((self.residual(wave), self.residual(mlp)),)


@pytest.fixture(scope="module")
def waves():
    """The class of a recurrent base, known as "waves" for as long as the module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._BASES, "waves", Waves)
        yield Waves


@pytest.fixture
def one_device():
    """A mesh of one device, in scope."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


_HOLDER = """
import fcntl, os, socket, sys, time
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("process", os.getpid(), "on", socket.gethostname(), file=file, flush=True)
    exec(sys.argv[2])
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold_lock():
    """hold_lock(path): a process, of a group of its own, that holds the lock of a run."""
    with contextlib.ExitStack() as stack:

        def hold(path: Path, code: str = "") -> subprocess.Popen:
            process = subprocess.Popen(
                [sys.executable, "-c", _HOLDER, str(path), code],
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout and process.stdout.readline() == "held\n"
            return process

        yield hold


@pytest.fixture(autouse=True, scope="module")
def _programs_are_let_go():
    """A compiled program holds several memory maps, and the kernel grants 65,530 of them."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _logger_as_it_was():
    """A run takes over the package's logger; the next test finds it untouched."""
    log = logging.getLogger("psann_jax")
    handlers, propagate, level = list(log.handlers), log.propagate, log.level
    yield
    log.handlers, log.propagate = handlers, propagate
    log.setLevel(level)
