//! Real PostgreSQL and S3 servers, and a fault-injecting store, for tests.
