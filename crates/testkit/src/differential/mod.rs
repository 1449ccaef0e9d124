//! API calls with the answers that the real Docker gave, compared with what an engine gives.
//!
//! [`Session`] is a file of calls, [`show`] makes answers comparable, [`Rule`] is an intended difference.

mod rules;
mod session;
pub mod show;

pub use rules::{Difference, Rule, compare};
pub use session::{Outcome, Session, Stage, Step, render_shown};
