//! Settings of a server that lie outside its data folder, as in `/etc/postgresql`: read through the server, which alone knows which
//! they are, wherever it runs.

use serde::Deserialize;

use crate::postgres::PostgresError;
use crate::postgres::quote::literal;
use crate::postgres::session::Session;

/// The longest file that is taken, in bytes.
const LONGEST: u64 = 1 << 20;

/// The most that is taken of all files.
const MOST: usize = 32 << 20;

/// What the role may: see the settings, see the files they come from, and read those.
const MAY: &str = "select (select setting from pg_catalog.pg_settings where name = 'config_file') is not null as sees, \
    pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'select') \
      and pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute') as sees_files, \
    pg_catalog.has_function_privilege('pg_catalog.pg_read_binary_file(text,bigint,bigint,boolean)', 'execute') \
      and pg_catalog.pg_has_role('pg_read_server_files', 'usage') as reads";

const MAIN: &str =
    "select setting as path from pg_catalog.pg_settings where name in ('config_file', 'hba_file', 'ident_file')";
const INCLUDED: &str = " union select sourcefile from pg_catalog.pg_file_settings";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Files, by their absolute paths.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
}

/// Reads them, last of all that is asked in a session. What the role may not read is told, and fails nothing.
pub(super) async fn outside(session: &mut Session) -> Outside {
    let mut found = Outside::default();
    if let Err(error) = read(session, &mut found).await {
        found.warnings.push(format!("settings outside of the data folder are not all in the backup: {error}"));
    }
    found
}

async fn read(session: &mut Session, found: &mut Outside) -> Result<(), PostgresError> {
    #[derive(Deserialize)]
    struct May {
        sees: bool,
        sees_files: bool,
        reads: bool,
    }
    #[derive(Deserialize)]
    struct Named {
        path: String,
    }
    #[derive(Deserialize)]
    struct Read {
        content: Option<String>,
        length: Option<u64>,
    }
    let may: May = session.row(MAY).await?;
    if !may.sees {
        let why = "settings outside of the data folder, if there are any, are not in the backup: the role may not see where they are \
                   (GRANT pg_read_all_settings, pg_read_server_files)";
        found.warnings.push(why.to_owned());
        return Ok(());
    }
    let included = if may.sees_files { INCLUDED } else { "" };
    let asked = format!(
        "select path from ({MAIN}{included}) files where path is not null \
         and not pg_catalog.starts_with(path, pg_catalog.current_setting('data_directory') || '/') order by 1"
    );
    let names: Vec<Named> = session.all(&asked).await?;
    if !may.sees_files && !names.is_empty() {
        let why = "files that settings outside of the data folder include are not in the backup: the role may not see them \
                   (GRANT SELECT ON pg_file_settings, and EXECUTE on pg_show_all_file_settings)";
        found.warnings.push(why.to_owned());
    }
    let mut length_of_all = 0;
    for Named { path } in names {
        if !may.reads {
            found.warnings.push(format!(
                "`{path}` is not in the backup: the role may not read it (GRANT pg_read_server_files, and EXECUTE on pg_read_binary_file)"
            ));
            continue;
        }
        let read = format!(
            "select pg_catalog.replace(pg_catalog.encode(content, 'base64'), E'\\n', '') as content, pg_catalog.length(content) as length \
             from (select pg_catalog.pg_read_binary_file({}, 0, {}, true) as content) file",
            literal(&path),
            LONGEST + 1
        );
        let Read { content, length } = session.row(&read).await?;
        let content = content.filter(|_| length.is_some_and(|length| length <= LONGEST));
        let why = match content.and_then(|content| decoded(&content)) {
            Some(content) if is_plain(&path) && length_of_all + content.len() <= MOST => {
                length_of_all += content.len();
                found.files.push((path, content));
                continue;
            }
            Some(_) => "there is too much, or its name leads back",
            None if length.is_none() => "it is not there",
            None => "it is longer than a MiB",
        };
        found.warnings.push(format!("`{path}` is not in the backup: {why}"));
    }
    Ok(())
}

/// Whether a path leads down from the root, and nowhere back.
fn is_plain(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|path| path.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

fn decoded(content: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.decode(content).ok()
}
