//! The one question before something is written or deleted.

use std::io::IsTerminal;

use windlass_host::error::TaskError;

use crate::failure::{Failure, Result};

/// Whether a plan may run: its digest was given, `--yes` was, or a person at a terminal says so.
pub(crate) fn confirmed(digest: &str, confirm: Option<&str>, yes: bool, question: &str) -> Result<()> {
    match confirm {
        Some(given) if given == digest => return Ok(()),
        Some(given) => return Err(TaskError::Changed { confirmed: given.to_owned(), now: digest.to_owned() }.into()),
        None if yes => return Ok(()),
        None => {}
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let hint = format!("look at the plan, then add `--confirm {digest}`, or `--yes` for whatever the plan is");
        return Err(Failure::usage(
            "nothing was confirmed, and there is no terminal to ask: nothing was written",
            hint,
        ));
    }
    let answer = dialoguer::Confirm::new().with_prompt(question).default(false).interact();
    if answer.unwrap_or(false) {
        Ok(())
    } else {
        Err(Failure::usage("not confirmed: nothing was written", "run it again to go on"))
    }
}
