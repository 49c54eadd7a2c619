//! Generated references and checks of the workspace.
fn main() {}
