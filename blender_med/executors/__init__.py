"""How the units of a stage are executed: on this machine, or on a cluster."""
