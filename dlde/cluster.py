"""The noun `Cluster`: where a job runs, and nothing of what runs; and tasks on Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Self, TypeVar

from pydantic import PositiveInt

from dlde import ray_session
from dlde.datasets import engines
from dlde.datasets.engines import Engine
from dlde.errors import DldeError, WorkerLostError
from dlde.files import find_yaml
from dlde.numerics.threads import available
from dlde.spec import Spec, read_yaml

T = TypeVar("T")
R = TypeVar("R")
RETRIES = 3  # of a task whose worker or node died
MOST_WORKERS = 8  # of a machine that nobody has described


class Cluster(Spec):
    """Where a job runs: by which engine, with how many workers, and where its results go."""

    engine: Literal["processes", "threads", "ray"] = "processes"
    workers: PositiveInt | None = None  # None: the cores that this process may use, at most 8
    address: str | None = None  # of a Ray that runs; None: one is started for the job
    root: str | None = None  # storage root; None: $DLDE_ROOT, or .dlde

    @classmethod
    def load(cls, name_or_path: str) -> Self:
        """A cluster by name or path. Raises SpecError with every mistake, or UnknownNameError."""
        path = find_yaml("cluster", name_or_path)
        return cls.parse(read_yaml(path), source=path.name)

    def tasks(self, workers: int | None = None) -> Engine:
        """What carries out independent tasks there; `workers` goes before the cluster's own."""
        count = workers or self.workers or min(available(), MOST_WORKERS)
        if self.engine == "ray":
            return RayTasks(count, self.address)
        return {"processes": engines.Processes, "threads": engines.Threads}[self.engine](count)


class RayTasks(Engine):
    """Tasks on a Ray cluster, scheduled by dask; one that lost its worker or node is done by another."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        super().__init__(workers)
        self.address = address

    def map(self, function: Callable[[T], R], items: Sequence[T], take: Callable[[R], None]) -> None:
        if not items:
            return
        with ray_session.session(num_cpus=self.workers, address=self.address):
            self._map(function, items, take)

    def _map(self, function: Callable[[T], R], items: Sequence[T], take: Callable[[R], None]) -> None:
        import ray
        from ray.util.dask import ray_dask_get

        lent = ray.cluster_resources().get("CPU", 1.0)
        remote = {"num_cpus": lent / min(self.workers, lent), "max_retries": RETRIES}
        left = engines.compute(
            function, items, None, scheduler=ray_dask_get, ray_persist=True, ray_remote_args=remote
        )
        try:
            while left:
                done, left = ray.wait(list(left), num_returns=1)
                for finished in done:
                    take(ray.get(finished))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DldeError):
                raise error.cause from None
            raise
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            raise WorkerLostError(
                "a Ray worker or its node died again and again, perhaps for lack of memory; run the same "
                "command again, it continues where it stopped (fewer workers or a smaller storage.part need "
                "less memory)"
            ) from error
        finally:
            for unfinished in left:
                ray.cancel(unfinished)
