//! Windlass on a single machine: runs, scratch places, status.
