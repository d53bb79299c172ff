//! Derivation of a [`Plan`].

use crate::diagnostic::Diagnostic;
use crate::lab::Lab;
use crate::plan::Plan;

pub(crate) fn derive(_lab: &Lab) -> Result<Plan, Vec<Diagnostic>> {
    Err(Vec::new())
}
