"""dlde: a distributed pipeline for the meeting of deep learning and differential equations."""

__version__ = "0.1.0"
