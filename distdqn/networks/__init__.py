"""The Q-network: built in Keras, and evaluated from its layers and arrays with NumPy.

To act, import from `numpy_policy`; to check options, from `checks`. The other modules are for `learning`.
"""
