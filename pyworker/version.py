"""Which PyWorker this is."""

from importlib import metadata

try:
    VERSION = metadata.version("corral-serverless")
except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
    VERSION = "0+checkout"
