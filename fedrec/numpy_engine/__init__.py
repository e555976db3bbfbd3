"""The NumPy engine: what a device needs to train and to recommend, without torch, Hydra, scipy or dp-accounting.

A class here has the name, the settings and the arrays of the torch class it stands for: fedrec.numpy_engine.models is
fedrec.models.mf, and so on.
"""
