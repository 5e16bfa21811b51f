"""Pictures of datasets, one module for each kind of variable; `dlde.datasets.plot` chooses."""
