//! Configuration: YAML files → everything that the edge runs by, or every reason why not.
//!
//! 1. `node`: text → a tree that knows its places; structure is checked here.
//! 2. `decode` with the models: tree → values in bounds; unknown keys are faults.
//! 3. `check`: names that one part uses and another defines.
//! 4. `compile`: the files that are named → tenants, pools, keys.
//!
//! Each step goes on after a fault as far as that makes sense, so that one run tells
//! everything. What is wrong in the text, or in a file of the edge's own, refuses the whole
//! configuration: at a start nothing runs, at a reload the last one goes on. What is wrong in
//! a tenant's files refuses that tenant alone.

mod admin_model;
mod check;
mod compile;
mod decode;
mod edge_files;
mod fault;
mod files;
mod load;
mod model;
mod mqtt_model;
mod node;
mod pools;
mod registry_model;
mod reuse;
mod settings;
mod tenant_model;
mod tenants;
#[cfg(test)]
mod tests;
mod token_model;
mod trust_files;
mod upstream_model;
mod values;

pub use compile::{Compiled, Compiler};
pub use fault::{Fault, Faults};
pub use model::{LogFormat, LogSettings};
pub use settings::Settings;
