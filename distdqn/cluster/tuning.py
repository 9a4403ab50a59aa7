"""Sweeps over options with Ray Tune: many `serial` runs, packed onto the cluster."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distdqn.cluster.connection import connected
from distdqn.errors import ConfigError, one_line
from distdqn.training.limits import available_cpus

_RETURN, _STEPS = "eval_return_mean", "env_steps"
_SCOPE = "last-5-avg"  # single evaluations are noisy, and the best of many is biased upwards
_REDUCTION = 3  # of trials at each rung of ASHA, which begins at a `_REDUCTION`th to the third of the budget

Drawn = tuple[str, list[Any]]  # a distribution's name and its arguments
# Runs one: its options, its folder, and what takes mean return and env steps.
Trial = Callable[[dict[str, Any], Path, Callable[[float, int], None]], None]


def search(
    run_trial: Trial, fixed: Mapping[str, Any], searched: Mapping[str, Drawn], settings: Any, folder: Path
) -> tuple[dict[str, Any], float, int]:
    """Draws the searched options and runs a trial with each sample, as `distdqn.tune.TuneOptions` say.

    Returns the best of the searched options, their last mean return, and how many trials failed.
    `ConfigError` if a package is missing, a distribution is malformed, or every trial failed.
    """
    try:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        search_alg = None
        if settings.search == "optuna":
            from ray.tune.search.optuna import OptunaSearch

            search_alg = OptunaSearch()
    except (ImportError, AssertionError) as error:
        why = f"`distdqn tune` needs more packages: `pip install 'distdqn[tune]'` ({one_line(error)})."
        raise ConfigError(why) from error
    sampled = {name: _distribution(tune, name, *value) for name, value in searched.items()}
    budget = fixed.get("max_env_steps", 500_000)
    scheduler = None
    if settings.scheduler == "asha":
        grace = max(1, budget // _REDUCTION**3)
        scheduler = ASHAScheduler(_STEPS, max_t=budget, grace_period=grace, reduction_factor=_REDUCTION)

    def trainable(options: dict[str, Any]) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        own = folder / tune.get_context().get_trial_id()
        run_trial({**fixed, **options}, own, lambda mean, steps: tune.report({_RETURN: mean, _STEPS: steps}))

    with connected(settings.address, available_cpus()):
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space=sampled,
            tune_config=tune.TuneConfig(
                metric=_RETURN,
                mode="max",
                num_samples=settings.trials,
                scheduler=scheduler,
                search_alg=search_alg,
            ),
            run_config=tune.RunConfig(name="ray", storage_path=str(folder), verbose=1),
        ).fit()
    with contextlib.suppress(RuntimeError):  # no trial has a result
        best = results.get_best_result(_RETURN, "max", _SCOPE)
        results.get_dataframe().to_csv(folder / "trials.csv", index=False)
        return dict(best.config), float(best.metrics[_RETURN]), results.num_errors
    why = f": {one_line(results.errors[0])[-200:]}" if results.errors else ""
    raise ConfigError(f"No trial has a result (give them more `max_env_steps`, or look into {folder}){why}")


def _distribution(tune: Any, name: str, kind: str, arguments: list[Any]) -> Any:
    try:
        return tune.choice(arguments) if kind == "choice" else getattr(tune, kind)(*arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`space`: `{name}`: {kind} fails: {one_line(error)} (see Ray Tune).") from error
