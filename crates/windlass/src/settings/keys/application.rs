//! The keys of `[application.NAME]` and everything below it.

use super::{Spec, later, optional, required};

pub(in crate::settings) const APPLICATION: Spec = Spec {
    table: "application.NAME",
    about: "What is backed up, restored and judged as one.",
    keys: &[
        required("repository", "name", r#""main""#, "The repository that holds its recovery points."),
        optional("policy", "name", "nothing is scheduled, everything is kept", r#""daily""#, "The policy it follows."),
        optional(
            "control",
            "table",
            "nothing is stopped",
            r#"{ stop = ["docker", "compose", "stop", "shop"], start = ["docker", "compose", "start", "shop"] }"#,
            "How it is stopped and started around a restore in place.",
        ),
        optional(
            "checks",
            "array of tables",
            "none",
            r#"[{ component = "db", sql = "select count(*) > 0 from orders" }]"#,
            "What must hold after a restore.",
        ),
        optional(
            "undo",
            "duration",
            "until it is removed by hand",
            r#""72h""#,
            "How long the old copy stays after a restore in place.",
        ),
        optional("hooks", "table", "none", "", "Commands around the capture of all components."),
        required("component", "tables", "", "Its components, each in a table `[application.NAME.component.NAME]`."),
    ],
};

pub(in crate::settings) const CONTROL: Spec = Spec {
    table: "application.NAME.control",
    about: "Likewise `[application.NAME.component.NAME.control]`. Commands are arrays, one word for each element, and run without a shell.",
    keys: &[
        required("stop", "command", r#"["systemctl", "stop", "shop"]"#, "Ends it."),
        required("start", "command", r#"["systemctl", "start", "shop"]"#, "Starts it again."),
    ],
};

pub(in crate::settings) const HOOKS: Spec = Spec {
    table: "application.NAME.hooks",
    about: "Likewise `[application.NAME.component.NAME.hooks]`, around the capture of that component alone.",
    keys: &[
        optional(
            "before",
            "array of tables",
            "none",
            r#"[{ run = ["/usr/local/bin/pause"], timeout = "30s" }]"#,
            "Run in order before the capture; the first that fails ends the run.",
        ),
        optional(
            "after",
            "array of tables",
            "none",
            r#"[{ run = ["/usr/local/bin/resume"], timeout = "30s" }]"#,
            "Run in order after the capture, every one of them, whatever happened: even if Windlass is killed.",
        ),
    ],
};

pub(in crate::settings) const HOOK: Spec = Spec {
    table: "HOOK",
    about: "One element of `before` or `after`.",
    keys: &[
        required("run", "command", r#"["/usr/local/bin/pause"]"#, "The command."),
        optional("timeout", "duration", "`10m`", r#""30s""#, "After this it is ended and counts as failed."),
    ],
};

pub(in crate::settings) const CHECK: Spec = Spec {
    table: "CHECK",
    about: "One element of `checks`: either `component` and `sql`, or `http`.",
    keys: &[
        optional(
            "component",
            "name",
            "required with `sql`",
            r#""db""#,
            "The `postgres` component the query is put to.",
        ),
        optional(
            "sql",
            "string",
            "",
            r#""select count(*) > 0 from orders""#,
            "A query; the first column of its first row must be true, unless there is `files`.",
        ),
        optional(
            "files",
            "name",
            "",
            r#""uploads""#,
            "The `disk` component whose files the query names, in its first column. After a restore in place those that are missing are reported, and nothing fails.",
        ),
        optional(
            "http",
            "URL",
            "",
            r#""http://127.0.0.1:8080/healthz""#,
            "An address that must answer a GET with a 2xx status within a minute.",
        ),
        optional(
            "after",
            r#"`"restore"`"#,
            r#"`"restore"`"#,
            r#""restore""#,
            "Only with `http`: asked where the application itself runs, which is after a restore in place.",
        ),
    ],
};

pub(in crate::settings) const COMPONENT: Spec = Spec {
    table: "application.NAME.component.NAME",
    about: "One part of an application. These keys are for every kind.",
    keys: &[
        required(
            "kind",
            r#"`"postgres"`, `"disk"` or `"action"`"#,
            r#""postgres""#,
            "How its data are captured and restored.",
        ),
        optional(
            "after",
            "array of names",
            "the order of the file",
            r#"["db"]"#,
            "Components captured before this one; restored after it.",
        ),
        optional(
            "policy",
            "name",
            "that of the application",
            r#""often""#,
            "A policy of its own: its captures join the next point, and are points of their own for it.",
        ),
        optional("hooks", "table", "none", "", "Commands around the capture of this component."),
    ],
};

pub(in crate::settings) const POSTGRES: Spec = Spec {
    table: r#"application.NAME.component.NAME, kind = "postgres""#,
    about: "Databases of a PostgreSQL server, dumped by `pg_dump`; or the server as a whole, by base backups in the layout of WAL-G.",
    keys: &[
        required(
            "url",
            "URL",
            r#""postgresql://shop@localhost:5432/shop""#,
            "The server and the database, as libpq takes them (`sslmode`, `sslrootcert` and so on behind a `?`), without a password.",
        ),
        optional(
            "password",
            "secret",
            "none is sent; libpq's `~/.pgpass` holds",
            r#"{ file = "/etc/windlass/shop-password" }"#,
            "The password.",
        ),
        optional(
            "databases",
            r#"`"named"` or `"all"`"#,
            r#"`"named"`"#,
            r#""all""#,
            "The database that the URL names, or every one of the server that allows connections and is no template.",
        ),
        optional(
            "mode",
            r#"`"logical"` or `"physical"`"#,
            r#"`"logical"`"#,
            r#""physical""#,
            "How it is captured: databases by dumps, or the server as a whole by base backups, whose data folder has to be at hand.",
        ),
        optional(
            "data_directory",
            "path",
            "where the server says it is",
            r#""/var/lib/postgresql/15/main""#,
            "With `mode = \"physical\"`: the server's data folder, as it is mounted on this machine.",
        ),
        optional(
            "via",
            "command",
            "run directly",
            r#"["docker", "compose", "exec", "-T", "postgres"]"#,
            "A command that the client tools are run through.",
        ),
        optional(
            "wal",
            r#"`"archive"`"#,
            "each base backup brings the WAL it needs",
            r#""archive""#,
            "With `mode = \"physical\"`: the server's `archive_command` brings all its WAL, through `windlass serve`, so that any moment can be restored.",
        ),
        optional(
            "spool",
            "number of bytes",
            "none: the server keeps what its store does not take",
            r#""2GiB""#,
            "With `wal = \"archive\"`: how much WAL may wait below `state` on this machine while its store is away, so that the server's disk does not fill.",
        ),
        optional(
            "compression",
            r#"`"zstd"`, `"zstd:LEVEL"` or `"lz4"`"#,
            r#"`"zstd"`, which is `"zstd:1"`"#,
            r#""zstd:3""#,
            "With `mode = \"physical\"`: how base backups and WAL are compressed. Levels go from 1 to 19; `lz4` is for stores that take more than a core compresses.",
        ),
        later("full", "How often a full base backup is made.", "take it out: each is a full one"),
        optional(
            "control",
            "table",
            "it is not replaced in place",
            r#"{ stop = ["pg_ctlcluster", "15", "main", "stop"], start = ["pg_ctlcluster", "15", "main", "start"] }"#,
            "With `mode = \"physical\"`: how the server is stopped and started around a restore in place. Each has to end only when it is done.",
        ),
    ],
};

pub(in crate::settings) const DISK: Spec = Spec {
    table: r#"application.NAME.component.NAME, kind = "disk""#,
    about: "Folders and files of this machine.",
    keys: &[
        required(
            "paths",
            "array of absolute paths",
            r#"["/srv/shop/uploads"]"#,
            "What is captured, each folder with all below it. Names, not patterns.",
        ),
        optional(
            "exclude",
            "array of patterns",
            "nothing is left out",
            r#"["*.tmp"]"#,
            "Patterns of gitignore's kind; what they match is left out.",
        ),
    ],
};

pub(in crate::settings) const ACTION: Spec = Spec {
    table: r#"application.NAME.component.NAME, kind = "action""#,
    about: "Commands of your own.",
    keys: &[
        required(
            "backup",
            "command",
            r#"["/usr/local/bin/export-index"]"#,
            "Its standard output is the backup. Nothing printed, or a status other than 0, is a failure.",
        ),
        optional(
            "restore",
            "command",
            "it cannot be restored by Windlass",
            r#"["/usr/local/bin/import-index"]"#,
            "Gets the backup on its standard input.",
        ),
        optional(
            "rehearse",
            "command",
            "deep verification and drills are inconclusive for it",
            r#"["/usr/local/bin/check-index"]"#,
            "Gets the backup on its standard input and says by how it ends whether it could be restored; must act on nothing.",
        ),
        optional("timeout", "duration", "`6h`", r#""10m""#, "After this either command is ended and counts as failed."),
    ],
};
