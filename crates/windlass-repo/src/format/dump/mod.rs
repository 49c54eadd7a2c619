//! The custom format of `pg_dump`.
