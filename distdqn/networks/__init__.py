"""The Q-network: built in Keras, and evaluated from its layers and arrays with NumPy.

`numpy_policy` and `keras_policy` are for acting, `q_network` and `tensorflow_setup` for learning.
"""
