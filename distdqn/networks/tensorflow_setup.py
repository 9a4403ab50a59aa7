"""Sets up TensorFlow in a process before it is imported: number of threads, memory, messages."""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from distdqn.errors import ConfigError

_KEPT_PROGRAMS = 50  # compiled ones, of about 1 MB each
_MIN_FREE_BYTES = 10**8  # on the disk, else none are kept


@functools.cache
def import_tensorflow(threads: int | str = 1, uses_gpus: bool = False) -> None:
    """Imports TensorFlow and Keras for the first time in this process, with `threads` for computations.

    `auto` means one. Only with `uses_gpus` it computes on GPUs, in every mode of a run and wherever they
    come from.

    Modules that import them at the top may be imported after this. Keras's own settings, from its file or
    from KERAS_BACKEND, do not matter. `ConfigError` if this process has imported Keras with another backend.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else it takes all of a GPU's memory
    # Faster convolutions, which TensorFlow chooses by itself on the newest processors only.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    _keep_compiled()
    with without_stderr():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()  # prints messages where there is no GPU
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ConfigError(
            f"Keras is imported with the backend `{backend}` already, and distdqn needs `tensorflow` (set "
            "KERAS_BACKEND=tensorflow, or leave it out)."
        )
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    # All of these are fixed at the first computation of a process (of a notebook, for example).
    with contextlib.suppress(RuntimeError):
        gpus = tf.config.list_physical_devices("GPU") if uses_gpus else []
        tf.config.set_visible_devices(gpus, "GPU")
    with contextlib.suppress(RuntimeError):
        count = threads if isinstance(threads, int) else 1
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)


def _keep_compiled() -> None:
    """Lets XLA keep what it compiles for CPUs in the user's cache folder, where later runs find it.

    TensorFlow reads the variable once. The folder is that of one release and one kind of processor.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    # Nothing is kept where nothing can be written.
    with contextlib.suppress(OSError, RuntimeError, ImportError):
        folder = _compiled_folder()
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-_KEPT_PROGRAMS]:
            old.unlink()
        has_room = shutil.disk_usage(folder).free >= _MIN_FREE_BYTES and os.access(folder, os.W_OK)
        if has_room and "persistent_cache" not in flags and " " not in str(folder):
            option = "--tf_xla_persistent_cache"
            os.environ["TF_XLA_FLAGS"] = f"{flags} {option}_directory={folder} {option}_device_types=CPU"


def forget_compiled() -> None:
    """Removes what `_keep_compiled` keeps: a file there may be damaged."""
    shutil.rmtree(_compiled_folder(), ignore_errors=True)
    _keep_compiled()


def _compiled_folder() -> Path:
    cache, processor = os.environ.get("XDG_CACHE_HOME"), platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += "".join({line for line in lines if line.startswith(("flags", "Features"))})
    kind = f"{importlib.metadata.version('tensorflow')} {platform.machine()} {processor}"
    digest = hashlib.sha256(kind.encode()).hexdigest()[:16]
    return (Path(cache) if cache else Path.home() / ".cache") / "distdqn" / f"xla-{digest}"


def gpu_notice() -> str | None:
    """One line if TensorFlow can use no GPU, which a learner with `learner_gpus` should have, else None."""
    import tensorflow as tf

    if tf.config.get_visible_devices("GPU"):
        return None
    return "TensorFlow finds no GPU for the learner, so it computes on CPUs (install `distdqn[cuda]`)."


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Hides TensorFlow's C++ messages, which no log level silences, from the terminal."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
