"""The engine of all studies: options, plan, running, tracking, progress."""

import os

# How Ray behaves in every study. It reads some of these where it is imported, so they stand where all imports pass.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
# Else a Ray of our own listens to the whole network; no hindrance to joining a cluster.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
