"""Workers as processes of this machine. They outlive the provisioner that started them.

files        what is known of each worker, on disk: <state dir>/workers/<wid>/
environment  what a worker process is told, and what it must not inherit (pure)
ports        numbers nobody else listens on
gpus         who has which GPU
proc         is it alive, is it still the same process, signals to all of it
verdict      why it ended (pure)
provider     the Provider made of these
"""

from .files import Folder
from .provider import ProcessProvider
from .runner import ProcessSettings

__all__ = ["Folder", "ProcessProvider", "ProcessSettings"]
