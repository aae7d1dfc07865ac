//! The binary: argv to role or command to exit code, nothing else.
fn main() {}
