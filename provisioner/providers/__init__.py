"""The places workers come from. Each speaks `provisioner.provider.Provider` and nothing else to the rest."""
