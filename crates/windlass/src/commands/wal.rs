//! What PostgreSQL runs as its `restore_command`.
//!
//! Its exit codes are not those of other verbs: PostgreSQL takes 1 to 125 for the end of the archive, ends recovery there, and
//! would lose what is behind. So 1 means exactly that, and everything else that is not well is 126 or more.

use std::path::Path;

use windlass_core::name::Name;
use windlass_core::repository::Format;

use crate::commands::foreign;
use crate::context::Context;
use crate::failure::{Failure, Result, Status};

/// `wal-fetch --component REPOSITORY NAME PATH`; failed means that the archive ends before it.
pub(crate) async fn fetch(context: &Context, component: &Name, name: &str, cluster: Option<u64>, to: &Path) -> Result {
    let Some(repository) = context.foreign(component) else {
        let hint = "name a repository of `format = \"wal-g\"`";
        return Err(Failure::usage(format!("`{component}` holds no WAL"), hint));
    };
    let Format::WalG { key } = &repository.format else {
        return Err(Failure::usage(format!("`{component}` holds no WAL"), "name a repository of `format = \"wal-g\"`"));
    };
    let there = foreign::fetch(repository, key.as_ref(), name, cluster, to).await?;
    Ok(if there { Status::Done } else { Status::Failed })
}
