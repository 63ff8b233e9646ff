"""OpenVINO, imported here for all modules, and its core, one for the whole process.

Note [Freed in another thread]
    OpenVINO's CPU plugin gives the thread that loads it a stack for signal handlers, and takes that back in the thread
    that frees the plugin. Where those are two, the first one keeps a stack that is gone: the next signal that Python
    handles in it, such as Ctrl-C or the end of a child process, ends the process with a segmentation fault. Objects are
    freed in any thread, by the garbage collector for one. So there is one core, which owns the plugin and stays.
    Seen in OpenVINO 2026.4.1 on Linux.
"""

from __future__ import annotations

from i3d_deploy import untracked
from i3d_deploy.errors import MissingExtraError

try:
    with untracked.imports():
        import openvino as openvino
except ImportError as error:
    raise MissingExtraError("openvino", extra="openvino", cause=error) from error

CORE = openvino.Core()
"""For every model that is read or compiled; nothing is set on it, since that would meet all of them."""
