//! Control flow: an If whose condition is known is its branch.

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};

/// If, its condition constant: the branch taken is translated in place.
pub fn branch(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let condition = c.input(0)?;
    let Some(value) = c.constant(condition) else {
        if c.importer.is_stand_in(condition) {
            c.constant_input(0, "the condition")?;
        }
        return unsupported(
            "its condition is computed while the network runs",
            "the condition must follow from constants and shapes",
        );
    };
    let taken = match value.to_f64().as_slice() {
        &[v] => v != 0.0,
        v => return invalid(format!("the condition has {} elements, one is expected", v.len())),
    };
    let branches = (c.attributes.graph("then_branch")?, c.attributes.graph("else_branch")?);
    let (Some(then), Some(other)) = branches else {
        return invalid("then_branch or else_branch is missing");
    };
    let outputs = c.importer.inline(if taken { then } else { other })?;
    if outputs.len() != c.node.outputs.len() {
        return invalid(format!(
            "the branch has {} outputs, the node {}",
            outputs.len(),
            c.node.outputs.len()
        ));
    }
    Ok(outputs)
}
