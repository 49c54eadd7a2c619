//! A store of objects.
