//! Pictures of a lab.

use crate::lab::Lab;

/// A Mermaid flow chart (`graph TD`).
pub fn mermaid(_lab: &Lab) -> String {
    String::new()
}

/// A Graphviz graph.
pub fn dot(_lab: &Lab) -> String {
    String::new()
}
