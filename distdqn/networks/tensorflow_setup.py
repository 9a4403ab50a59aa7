"""Loading TensorFlow into a process: with few threads, and without its chatter."""

import contextlib
import os
import sys
from collections.abc import Iterator


def import_tensorflow(threads: int) -> None:
    """Loads TensorFlow and Keras, with `threads` for their computations."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else it takes all of a GPU's memory
    with without_stderr():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()  # complains where there is no GPU
    # The pools are fixed at the process's first computation: in a process that has
    # computed before (a notebook's second run), they stay as they are.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def gpu_notice() -> str | None:
    """One line if this process was given a GPU that TensorFlow cannot use."""
    import tensorflow as tf

    if os.environ.get("CUDA_VISIBLE_DEVICES", "") in ("", "-1") or tf.config.list_physical_devices("GPU"):
        return None
    return (
        "The learner has a GPU that TensorFlow cannot use, so it computes on CPUs (install `distdqn[cuda]`)."
    )


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Keeps TensorFlow's C++ chatter, which no log level silences, off the terminal."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
