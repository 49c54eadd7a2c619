//! Volumes and directories: a restic repository.
