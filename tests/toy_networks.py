"""The network of the value head, by its few settings."""

from distdqn.networks.q_network import NetworkPlan, make_networks


def make_q_network(observation_shape, actions, hidden_sizes, layer_norm, seed, dueling=False):
    """A Keras model from observations `[B, *observation_shape]` to Q-values `[B, A]`."""
    plan = NetworkPlan(observation_shape, actions, tuple(hidden_sizes), layer_norm, dueling)
    return make_networks(plan, seed)[0]
