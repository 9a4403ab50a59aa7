"""Where on a cluster each role runs, and what it asks of its node.

The learner and replay exchange the most data, so a placement group of two keeps them on one
node if one has room for both. Everybody else is spread over the nodes.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ray._private import state
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distdqn.distributed.cluster import NO_GPU, THREAD_SETTINGS, Cluster
from distdqn.distributed.fleet import Wishes

_PAIR = ("learner", "replay")  # the roles of the group, in the order of its bundles


class Placement:
    """Turns a role into the options with which Ray starts its process."""

    def __init__(self, cluster: Cluster, wishes: Wishes) -> None:
        self._cluster = cluster
        self._wishes = wishes
        self._pair: Any = None

    def options(self, role: str, index: int) -> dict[str, Any]:
        """What Ray is told of a role's process.

        Args:
            role: `learner`, `replay`, `actor` or `evaluator`.
            index: which of them.
        """
        asked = self.needs(role)
        options: dict[str, Any] = {"num_cpus": asked.pop("CPU")}
        if gpus := asked.pop("GPU", 0.0):
            options["num_gpus"] = gpus
        if asked:
            options["resources"] = asked
        if not self._cluster.is_private or self._wishes.learner_gpus:  # else they inherit it
            options["runtime_env"] = {"env_vars": {**THREAD_SETTINGS, **({} if gpus else NO_GPU)}}
        if self._cluster.cpus_per_role:  # else it is all one machine
            options["scheduling_strategy"] = self._strategy(role, index)
        return options

    def needs(self, role: str) -> dict[str, float]:
        """What a role's process takes of its node, by Ray's names."""
        cpus = 0.0 if role == "control" else self._cluster.cpus_per_role
        return {"CPU": cpus, **self._wishes.of(role)}

    def missing(self, role: str, index: int) -> str | None:
        """What the cluster has too little of to give a role a place, or None."""
        bundles = [self.needs(role)]
        if self._pair is not None and role in _PAIR and index == 0:
            if placement_group_table(self._pair)["state"] == "CREATED":
                return None
            bundles = [self.needs(each) for each in _PAIR]
        free = list(state.available_resources_per_node().values())
        for needs in bundles:
            if not any(_has(node, needs) for node in free):
                most = {name: max((node.get(name, 0.0) for node in free), default=0.0) for name in needs}
                return (
                    f"needs {_words(needs)} on one node; of {len(free)} nodes, none has more than "
                    f"{_words(most, needs)} free"
                )
        if not _have_both(free, bundles[0], bundles[-1]) and len(bundles) > 1:
            both = " and ".join(_words(needs) for needs in bundles)
            return f"needs {both} for learner and replay; the {len(free)} nodes have no room for both"
        return None

    def _strategy(self, role: str, index: int) -> Any:
        if role not in _PAIR or index > 0:
            return "SPREAD"
        if self._pair is None:
            self._pair = placement_group([self.needs(each) for each in _PAIR], "PACK")
        return PlacementGroupSchedulingStrategy(self._pair, placement_group_bundle_index=_PAIR.index(role))

    def end(self) -> None:
        """Gives back what was reserved."""
        if self._pair is not None:
            with contextlib.suppress(RayError):  # the cluster is gone, and the group with it
                remove_placement_group(self._pair)
            self._pair = None


def _has(node: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    """Whether a node has as much free."""
    return all(node.get(name, 0.0) >= amount for name, amount in needs.items())


def _have_both(free: Sequence[Mapping[str, float]], one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether nodes have room for both, on one node or on two."""
    together = {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {*one, *other}}
    fitting = [(_has(node, one), _has(node, other)) for node in free]
    apart = any(a and b for i, (a, _) in enumerate(fitting) for j, (_, b) in enumerate(fitting) if i != j)
    return apart or any(_has(node, together) for node in free)


def _words(amounts: Mapping[str, float], named: Mapping[str, float] | None = None) -> str:
    """Amounts in words; those of which `named` has none are left out."""
    named = amounts if named is None else named
    return ", ".join(f"{amounts[name]:g} {name}" for name, amount in named.items() if amount)
