"""The Q-network: built in Keras, and evaluated from its layers and arrays with NumPy.

To act, import from `numpy_policy`; to check options, from `checks`. Neither needs TensorFlow. The other
modules are for `learning`.
"""
