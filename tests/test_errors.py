"""Errors survive the way back from a worker."""

import pickle

import pytest

from dlde import errors


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DldeError)],
    ids=lambda kind: kind.__name__,
)
def test_pickling_keeps_kind_message_and_facts(kind: type[errors.DldeError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no", expected="a", found=["b"])))  # noqa: S301
    assert type(error) is kind
    assert (str(error), error.expected, error.found) == ("no", "a", ["b"])
    assert error.exit_code in (1, 2, 143)
    with pytest.raises(AttributeError):
        _ = error.unknown
