"""How a service lives: settings, logs, the bus, lease, topology, serve()."""
