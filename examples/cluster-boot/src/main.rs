//! Demo.
fn main(){}
