"""Finding TensorRT, and hearing what it says."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from i3d_deploy import tensorrt_flavor
from i3d_deploy.errors import MissingExtraError
from i3d_deploy.tensorrt_flavor import FlavorName, Messages, load_flavor

INSTALLED = [name for name in tensorrt_flavor.FLAVORS if importlib.util.find_spec(name) is not None]
MISSING = [name for name in tensorrt_flavor.FLAVORS if name not in INSTALLED]
needs_tensorrt = pytest.mark.skipif(not INSTALLED, reason="no TensorRT")


@needs_tensorrt
def test_without_a_name_the_installed_flavor_is_taken_tensorrt_first() -> None:
    assert load_flavor().name == INSTALLED[0]


@pytest.mark.parametrize("name", INSTALLED)
def test_flavor_reads_as_its_title_and_version(name: FlavorName) -> None:
    flavor = load_flavor(name)
    title = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[name]
    assert str(flavor) == f"{title} {flavor.module.__version__}"


@pytest.mark.parametrize("name", MISSING)
def test_missing_flavor_names_its_extra(name: FlavorName) -> None:
    extra = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}[name]
    with pytest.raises(MissingExtraError, match=rf"^{name} is not installed: pip install 'i3d-deploy\[{extra}\]'$"):
        load_flavor(name)


def test_without_any_flavor_tensorrt_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_flavor, "FLAVORS", {"tensorrt_absent": "TensorRT"})
    with pytest.raises(MissingExtraError, match="tensorrt_absent is not installed"):
        load_flavor()


def test_shared_library_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MissingExtraError, match=r"^tensorrt cannot be imported \(libnvinfer.so.11: cannot open"):
        tensorrt_flavor._load.__wrapped__("tensorrt")  # past the cache, where an installed one may be


def test_reason_is_one_line() -> None:
    assert Messages(errors=["first\n  line", "second"]).reason() == "first line; second"
    assert Messages().reason() == "TensorRT gave no reason"


@needs_tensorrt
def test_errors_and_warnings_are_heard_only_while_listening() -> None:
    flavor = load_flavor()
    severity = flavor.module.ILogger
    with flavor.listening() as messages, flavor.listening() as others:
        flavor.logger.log(severity.ERROR, "an error")
        flavor.logger.log(severity.INTERNAL_ERROR, "an internal error")
        flavor.logger.log(severity.WARNING, "a warning")
        flavor.logger.log(severity.INFO, "information")
    flavor.logger.log(severity.ERROR, "too late")
    assert messages == others == Messages(errors=["an error", "an internal error"], warnings=["a warning"])


@needs_tensorrt
def test_a_flavor_has_one_logger() -> None:
    assert load_flavor().logger is load_flavor(INSTALLED[0]).logger
